"""What the demonstration shows on screen."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cloister.demo import screen
from cloister.net.identity import Identity
from cloister.study.history import Round
from cloister.testing.charters import write_charter


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=120)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_introduction_says_what_this_is_and_what_it_is_not(console: Console) -> None:
    screen.introduce(console, {"north": (200, 20), "hill": (50, 40)}, held_out=113)
    text = shown(console)
    for word in (
        "that only dials out",
        "simulated",
        "with noise that hides each patient",
        "north",
        "200",
        "10%",
        "80%",
        "113",
    ):
        assert word in text


def test_the_charter_and_the_verdicts_are_shown(console: Console, tmp_path: Path) -> None:
    identities = {name: Identity.create(tmp_path / f"{name}.key") for name in ("north", "hill")}
    members = {name: ("owner", identity) for name, identity in identities.items()}
    charter = write_charter(
        tmp_path / "charter.toml", name="hospitals", members=members, addresses=["agg.example:7443"]
    )
    screen.agree(console, charter)
    screen.attested(console, {"north": "verified: simulated TEE"})
    text = shown(console)
    for word in ("hospitals #1", "hill, north", charter.digest.hex()[:16], "north: verified: simulated TEE"):
        assert word in text


def test_those_who_refuse_in_the_same_words_share_a_line(console: Console) -> None:
    faults = {"north": "it was rolled back", "harbour": "it is another charter", "hill": "it was rolled back"}
    screen.refuse(console, "Somebody tries:", faults)
    assert shown(console).splitlines() == [
        "Somebody tries:",
        "  ✗ north and hill refuse: it was rolled back",
        "  ✗ harbour refuses: it is another charter",
    ]


def test_rounds_are_shown_as_they_come(console: Console) -> None:
    with screen.Rounds(console, total=2, spent=lambda rounds: rounds / 4) as show:
        for number, accuracy in ((1, 0.9), (2, 0.947)):
            show(Round(number, ("hill", "north"), None, {}, {"accuracy": accuracy}, 0.1))
    text = shown(console)
    for word in ("2 hospitals", "0.25", "0.50", "90.0%", "94.7%", "2/2"):
        assert word in text


def test_of_many_rounds_some_are_shown_and_the_last_one(console: Console) -> None:
    with screen.Rounds(console, total=41, spent=lambda rounds: rounds / 100) as show:
        for number in range(1, 42):
            show(Round(number, ("hill", "north"), None, {}, {"accuracy": 0.9}, 0.1))
    rows = [line for line in shown(console).splitlines() if "hospitals" in line]
    assert len(rows) == 21
    assert "0.02" in rows[0]
    assert "0.41" in rows[-1]


def test_the_comparison_has_all_three_kinds(console: Console) -> None:
    alone = {"north": 0.6, "hill": 0.7}
    screen.compare(console, alone, federated=0.95, epsilon=1.987, without_noise=0.97, pooled=0.96)
    text = shown(console)
    for word in ("north alone", "60.0%", "hill alone", "the federation", "1.99", "95.0%", "97.0%", "pooled", "96.0%"):
        assert word in text


def test_the_audit_is_shown_with_the_command_that_repeats_it(console: Console) -> None:
    command = "cloister ledger audit chain.jsonl --charter charter.toml --accept-simulated" + " " * 80 + "end"
    screen.audit(console, ["rounds      20 released"], command=command)
    screen.finish(console, seconds=12.3)
    lines = shown(console).splitlines()
    assert "  rounds      20 released" in lines
    assert f"  {command}" in lines  # in one line, to be copied
    assert "12 s" in lines[-1]
