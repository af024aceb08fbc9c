"""`cloister study plan`: the steps that are so many epochs, and the noise that keeps an epsilon."""

from __future__ import annotations

import dp_accounting.pld  # noqa: F401  the command loads it when it is first asked for noise, which takes a second
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloister.accounting.accountant import Spent, epsilon
from cloister.cli.main import main
from cloister.cli.study import app
from cloister.study.epochs import passes_of, steps_of


def told(*words: str) -> str:
    found = CliRunner().invoke(app, ["plan", *words])
    assert found.exit_code == 0, found.output
    return found.output


def test_it_says_the_steps_and_what_they_are_for_each_owner() -> None:
    lines = told("235", "70", "150", "40", "--batch-size", "32", "--epochs", "3").splitlines()
    assert lines[:2] == ["batch_size = 32", "steps = 10"]  # three epochs of 110 rows, which are the middle
    assert [line.split()[:4] for line in lines[4:]] == [
        ["40", "1", "0", "0"],
        ["70", "2", "64", "5.0"],
        ["150", "4", "128", "2.5"],
        ["235", "7", "224", "1.4"],
    ]
    assert "takes no part: it has fewer than 2 batches" in lines[4]


def test_many_passes_over_few_rows_are_told() -> None:
    assert "more than 20 passes fit its rows closely" in told("100000", "90000", "64")


def test_what_makes_no_sense_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["0"], ["100", "--epochs", "0"], ["100", "--epochs", "nan"]):
        with pytest.raises(SystemExit) as caught:
            main(["study", "plan", *words])
        assert caught.value.code == 1
        assert "at least one row" in capsys.readouterr().err


@given(st.lists(st.integers(1, 10**6), min_size=1), st.integers(1, 1000), st.floats(0.1, 100))
def test_the_middle_owner_passes_over_its_rows_so_often(rows: list[int], batch_size: int, epochs: float) -> None:
    steps = steps_of(rows, batch_size=batch_size, epochs=epochs)
    assert steps >= 1
    middle = sorted(rows)[len(rows) // 2]
    if len(rows) % 2 and middle >= batch_size:
        # a step is a whole one, and a pass one over whole batches
        wanted = epochs * middle / batch_size
        assert abs(passes_of(middle, batch_size=batch_size, steps=steps) * (middle // batch_size) - wanted) <= 1


# Noise

NOISE = ("--epsilon", "3", "--delta", "1e-5", "--rounds", "60")


def proposed(*words: str) -> list[list[str]]:
    """The table's rows."""
    lines = told(*words).splitlines()
    return [line.split() for line in lines[3 : lines.index("", 3)]]


def test_it_proposes_noise_the_least_first() -> None:
    rows = proposed(*NOISE, "--rows", "1368", "--rate", "0.2", "--rate", "1")
    assert [row[:3] for row in rows] == [["1", "1368", "60"], ["0.2", "274", "60"]]
    for rate, _, count, multiplier, spent, noise in rows:
        found = epsilon([Spent(float(multiplier), float(rate), int(count))], delta=1e-5)
        assert spent == f"{found:.3g}"
        assert 2.9 < found <= 3
        assert noise == f"{float(multiplier) / (float(rate) * 1368):.4f}"


def test_rows_of_owners_are_added_up() -> None:
    assert told("456", "456", "456", *NOISE, "--rate", "0.2") == told("--rows", "1368", *NOISE, "--rate", "0.2")


def test_the_least_multiplier_is_kept() -> None:
    [row] = proposed(*NOISE, "--rows", "1368", "--rate", "0.2", "--least-multiplier", "5")
    assert row[3] == "5"


def test_it_says_what_epsilon_bounds() -> None:
    said = told(*NOISE, "--rows", "1368", "--rate", "0.2")
    assert "is right 95.3% of the\n  time at most; a coin is right half of it" in said
    assert "delta: it is 1 in" not in said
    assert "delta: it is 1 in 1368 rows or more" in told(
        "--epsilon", "3", "--delta", "1e-3", "--rows", "1368", "--rate", "0.2", "--rounds", "60"
    )


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("--epsilon 2", "say --delta too"),
        ("--epsilon 2 --delta 1e-5", "at least one row"),
        ("--epsilon 0 --delta 1e-5 --rows 9", "the wanted epsilon is 0.0"),
        ("--epsilon 2 --delta 2 --rows 9", "delta is 2.0"),
        ("--epsilon 2 --delta 1e-5 --rows 9 --rate 2", "sampling rate is 2.0"),
        ("--epsilon 2 --delta 1e-5 --rows 9 --rounds 0", "one round"),
        ("--epsilon 2 --delta 1e-5 --rows 9 --least-multiplier 0", "noise multiplier is 0.0"),
        ("--epsilon 1e-6 --delta 1e-9 --rows 9 --rate 1 --rounds 9", "no noise keeps an epsilon of 1e-06"),
        ("100 --rate 0.1", "say --epsilon too"),
        ("", "at least one row"),
    ],
)
def test_what_noise_cannot_be_planned_with_is_said(words: str, about: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["study", "plan", *words.split()])
    assert caught.value.code == 1
    assert about in capsys.readouterr().err
