"""What the demonstration shows on screen."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from cloister.demo import screen
from cloister.demo.training import Round


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=120)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_introduction_says_what_this_is_and_what_it_is_not(console: Console) -> None:
    screen.introduce(console, {"north": (200, 20), "hill": (50, 40)}, held_out=113)
    text = shown(console)
    for word in ("unsafe_interactive", "not attested", "mutual TLS 1.3", "north", "200", "10%", "80%", "113"):
        assert word in text


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
