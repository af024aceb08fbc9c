"""What the demonstration shows on screen."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cloister.demo import screen
from cloister.demo.training import Round
from cloister.errors import UnacceptableError
from cloister.net.identity import Identity
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
        "unsafe_interactive",
        "simulated",
        "interactive, so nothing limits",
        "mutual TLS 1.3",
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
    screen.vouch(console, {"north": "verified: simulated TEE"})
    screen.refuse(console, {"hill": UnacceptableError(["measurement is 00, which is not listed"])})
    text = shown(console)
    for word in ("hospitals #1", "hill, north", charter.digest.hex()[:16], "north: verified: simulated TEE"):
        assert word in text
    assert "hill refuses it: genuine, but not acceptable: measurement is 00" in text


def test_rounds_are_shown_as_they_come_and_returned(console: Console) -> None:
    rounds = [Round(1, {"north": 0.51, "hill": 0.25}, 0.9), Round(2, {"north": 0.12345, "hill": 0.2}, 0.947)]
    assert screen.follow(console, iter(rounds), ["north", "hill"], total=2) == rounds
    text = shown(console)
    for word in ("north: loss", "hill: loss", "0.5100", "0.1235", "90.0%", "94.7%", "2/2"):
        assert word in text


def test_the_comparison_has_all_three_kinds(console: Console) -> None:
    screen.compare(console, {"north": 0.6, "hill": 0.7}, federated=0.95, pooled=0.96, seconds=12.3)
    text = shown(console)
    for word in ("north alone", "60.0%", "hill alone", "the federation", "95.0%", "pooled", "96.0%", "12 s"):
        assert word in text
