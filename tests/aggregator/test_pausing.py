"""Pauses between rounds that come to nothing."""

from __future__ import annotations

from cloister.aggregator.pausing import Pauses

BOTH = frozenset({"alice", "bob"})


def failed(pauses: Pauses, *, now: float, present: frozenset[str] = BOTH, hopeless: bool = False) -> None:
    pauses.begin(BOTH)
    pauses.fail(present, now=now, hopeless=hopeless)


def test_they_double_up_to_a_minute():
    pauses = Pauses()
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        failed(pauses, now=100.0)
        assert pauses.until(100.0) == 100 + pause
        assert not pauses.over(BOTH, now=99 + pause)
        assert pauses.over(BOTH, now=100 + pause)
        assert pauses.until(100 + pause) is None


def test_the_first_round_and_other_owners_wait_for_nothing():
    pauses = Pauses()
    assert pauses.over(BOTH, now=0.0)
    failed(pauses, now=0.0)
    assert pauses.over(BOTH | {"chuck"}, now=0.0)
    assert pauses.over(frozenset({"alice"}), now=0.0)


def test_whoever_came_while_a_round_was_under_way_is_another():
    pauses = Pauses()
    failed(pauses, now=0.0, present=BOTH | {"chuck"}, hopeless=True)
    assert pauses.over(BOTH | {"chuck"}, now=0.0)


def test_where_it_is_hopeless_no_time_is_enough():
    pauses = Pauses()
    failed(pauses, now=0.0, hopeless=True)
    assert pauses.until(0.0) is None
    assert not pauses.over(BOTH, now=1e9)
