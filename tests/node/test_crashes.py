"""Who crashes processes again and again is put off, for longer each time, and nobody else is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cloister.node.crashes import FIRST_S, FREE, MOST_S, Crashes


def test_the_first_crashes_are_free() -> None:
    crashes = Crashes()
    for count in range(1, FREE + 1):
        assert crashes.note("carol", now=float(count)) == count
        assert crashes.left_s("carol", now=float(count)) == 0.0


def test_then_each_pause_is_twice_as_long_up_to_an_hour() -> None:
    crashes, now, pauses = Crashes(), 0.0, []
    for _ in range(FREE):
        crashes.note("carol", now=now)
    for _ in range(12):
        crashes.note("carol", now=now)
        pauses.append(crashes.left_s("carol", now=now))
        now += pauses[-1]
        assert crashes.left_s("carol", now=now) == 0.0
    assert pauses[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert all(second == min(2 * first, MOST_S) for first, second in itertools.pairwise(pauses))
    assert pauses[-1] == MOST_S


def test_others_are_not_put_off() -> None:
    crashes = Crashes()
    for _ in range(3 * FREE):
        crashes.note("carol", now=0.0)
    crashes.note("dave", now=0.0)
    assert crashes.left_s("dave", now=0.0) == 0.0
    assert crashes.left_s("nobody", now=0.0) == 0.0
    assert crashes.count("dave", now=0.0) == 1
    assert crashes.total == 3 * FREE + 1


def test_an_hour_without_a_crash_is_a_new_beginning() -> None:
    crashes = Crashes()
    for _ in range(FREE + 1):
        crashes.note("carol", now=0.0)
    assert crashes.count("carol", now=FIRST_S + MOST_S) == FREE + 1
    assert crashes.count("carol", now=FIRST_S + MOST_S + 1) == 0
    assert crashes.note("carol", now=FIRST_S + MOST_S + 1) == 1
    assert crashes.left_s("carol", now=FIRST_S + MOST_S + 1) == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 5000.0)), max_size=60))
def test_nobody_is_put_off_for_more_than_an_hour(steps: list[tuple[str, float]]) -> None:
    crashes, now = Crashes(), 0.0
    for peer, pause in steps:
        now += pause
        crashes.note(peer, now=now)
        assert all(0.0 <= crashes.left_s(each, now=now) <= MOST_S for each in "abc")
