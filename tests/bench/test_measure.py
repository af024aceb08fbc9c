"""Measurements that are fair to every contender."""

from __future__ import annotations

import gc
from io import StringIO

import pytest
from rich.console import Console

from bench.measure import Timing, in_turn, ratio, show


@pytest.mark.slow
def test_contenders_take_turns() -> None:
    calls: list[str] = []
    contenders = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = in_turn(contenders, repeats=3, calls=2, warm_up=1)
    assert "".join(calls) == "ab" + "aabb" * 3
    assert {name: len(timing.times) for name, timing in timings.items()} == {"a": 3, "b": 3}
    assert all(time >= 0 for timing in timings.values() for time in timing.times)


@pytest.mark.slow
def test_the_collector_rests_meanwhile_and_works_again_afterwards() -> None:
    resting: list[bool] = []
    in_turn({"a": lambda: resting.append(gc.isenabled())}, repeats=2, warm_up=0)
    assert resting == [False, False]
    assert gc.isenabled()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_turn({"a": fail}, repeats=1, warm_up=0)
    assert gc.isenabled()


def test_the_median_is_the_middle() -> None:
    assert Timing((5.0, 1.0, 3.0)).median == 3.0


def test_a_ratio_compares_repeat_by_repeat() -> None:
    """So that a machine that slows down in the middle changes both sides of it."""
    slow, fast = Timing((2.0, 20.0, 200.0)), Timing((1.0, 10.0, 100.0))
    assert ratio(slow, fast) == 2.0
    assert ratio(fast, slow) == 0.5
    with pytest.raises(ValueError, match="zip"):
        ratio(slow, Timing((1.0,)))


def test_the_table_shows_medians_ratios_and_aims() -> None:
    console = Console(file=StringIO(), width=120)
    timings = {"plain": Timing((1e-6, 2e-6, 3e-6)), "ours": Timing((4e-6, 4e-6, 9e-6))}
    show(console, "a title", timings, against="plain", aims={"ours": "3x"})
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    for word in ("a title", "median, us", "ratio to plain", "2.0", "4.0", "9.0", "3.00x", "3x"):
        assert word in text
