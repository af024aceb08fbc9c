"""`cloister study`: the steps that are so many epochs, and a study file for a person to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloister.cli.main import main
from cloister.cli.study import app
from cloister.study.epochs import passes_of, steps_of
from tests.study.test_study_file import written


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


# Reading a study file


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two that differ in their steps."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    return written(folders[0]), written(folders[1], steps=10)


def ran(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, list(words))
    return found.exit_code, found.output


@pytest.mark.slow
def test_a_study_is_shown_compared_and_unpacked(studies: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = map(str, studies)
    code, shown = ran("show", one)
    assert code == 0
    assert "what leaves this machine" in shown
    assert len(ran("show", "--code", one)[1]) > len(shown)
    assert "+  steps               10 of every owner in every round" in ran("diff", one, other)[1].splitlines()
    assert ran("diff", one, one) == (0, "they say the same\n")
    assert ran("unpack", one, str(tmp_path / "c.toml"))[0] == 0
    assert (tmp_path / "c.toml").read_text() == (studies[0].parent / "charter.toml").read_text()


@pytest.mark.slow
def test_the_signatures_of_a_study_lie_where_those_of_its_charter_are_looked_for(
    studies: tuple[Path, Path], tmp_path: Path
) -> None:
    study = tmp_path / "stay.study"
    study.write_bytes(studies[0].read_bytes())
    signatures = tmp_path / "stay.sigs"
    signatures.mkdir()
    (signatures / "hill.sig").write_text("hill's")
    code, said = ran("unpack", str(study))
    assert code == 0
    assert (tmp_path / "stay.toml").exists()
    assert f"its signatures lie in {signatures}: 1 so far" in said
    charter, copied = tmp_path / "charter.toml", tmp_path / "charter.sigs"
    code, said = ran("unpack", str(study), str(charter))
    assert code == 0
    assert f"its signatures lie in {copied}: 1 so far" in said
    assert (copied / "hill.sig").read_text() == "hill's"
    charter.unlink()
    assert ran("unpack", str(study), str(charter))[0] == 0  # the very same are there already
    charter.unlink()
    (copied / "hill.sig").write_text("another")
    found = CliRunner().invoke(app, ["unpack", str(study), str(charter)])
    assert "is another signature than" in str(found.exception)
    assert not charter.exists()


@pytest.mark.slow
def test_what_is_no_study_or_is_there_already_is_said(
    studies: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.study").write_text("nothing")
    for words, said in (
        (["show", str(tmp_path / "no.study")], "no study file of this version"),
        (["show", str(tmp_path / "gone.study")], "cannot be read"),
        (["unpack", str(studies[0]), str(tmp_path / "no.study")], "exists and is not overwritten"),
        (["unpack", str(studies[0]), str(tmp_path / "gone" / "c.toml")], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["study", *words])
        assert caught.value.code == 1
        assert said in capsys.readouterr().err
