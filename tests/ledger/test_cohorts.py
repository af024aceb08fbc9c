"""Who is in a cohort: a law that holds whatever owners say, and what is chosen in the cases that come up."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import RoundError
from cloister.ledger import cohorts
from cloister.ledger.cohorts import choose, would_be_signed

OWNERS: Final = "abcdefg"
sets = st.frozensets(st.sampled_from(OWNERS), min_size=1)


def chosen(trained: str, signed: dict[str, tuple[str, ...]], *, floor: int, quorum: int = 2, there: str = "") -> str:
    """As ``choose``, with owners that are called by letters. ``there``: those who have said nothing."""
    told = {owner: frozenset(map(frozenset, signed.get(owner, ()))) for owner in {*trained, *signed, *there}}
    return "".join(sorted(choose(frozenset(trained), signed=told, floor=floor, quorum=quorum)))


def agreed(members: frozenset[str], signed: dict[str, frozenset[frozenset[str]]], *, floor: int, quorum: int) -> bool:
    """Whether these and enough others sign for these, by hand."""
    willing = {
        owner for owner, told in signed.items() if all(len(members ^ other) not in range(1, floor) for other in told)
    }
    return members <= willing and len(willing) >= quorum


@given(
    st.frozensets(st.sampled_from(OWNERS)),
    st.dictionaries(st.sampled_from(OWNERS), st.frozensets(sets, max_size=3)),
    st.integers(2, 4),
    st.integers(2, 7),
)
def test_of_few_owners_a_cohort_that_would_be_signed_is_found_if_there_is_one(trained, told, floor, quorum):
    signed = {owner: told.get(owner, frozenset()) for owner in trained | told.keys()}
    every = [frozenset(each) for size in range(floor, len(trained) + 1) for each in combinations(trained, size)]
    possible = [each for each in every if agreed(each, signed, floor=floor, quorum=quorum)]
    for each in every:
        assert would_be_signed(each, signed=signed, floor=floor, quorum=quorum) == (each in possible)
    try:
        assert choose(trained, signed=signed, floor=floor, quorum=quorum) in possible
    except RoundError:
        assert not possible


@pytest.mark.slow
@given(st.integers(3, 5), st.data())
def test_owners_who_lie_about_what_they_signed_leave_out_nobody_else(floor, data):
    """As many as may break their word, where the others are enough, and have signed nothing on this model."""
    liars = data.draw(st.frozensets(st.sampled_from(OWNERS), max_size=floor - 2))
    honest = frozenset(OWNERS) - liars
    signed = {owner: data.draw(st.frozensets(sets, max_size=3)) if owner in liars else frozenset() for owner in OWNERS}
    quorum = (len(OWNERS) + floor) // 2
    if len(honest) >= quorum:
        assert honest <= choose(frozenset(OWNERS), signed=signed, floor=floor, quorum=quorum)


@pytest.mark.parametrize(
    ("trained", "signed", "expected"),
    [
        ("abc", {}, "abc"),
        ("abc", {"a": ("abc",), "b": ("abc",)}, "abc"),
        ("abc", {"a": ("ab",)}, "ab"),
        ("abcd", {"a": ("ab",)}, "abcd"),
        ("abcd", {"d": ("abcde",), "a": ("abcde",)}, "bc"),
        ("abcdef", dict.fromkeys("abcd", ("abcde",)), "abcde"),
    ],
    ids=["nothing was signed", "all again", "made up for", "far enough", "without those who signed", "the larger one"],
)
def test_of_two_at_least(trained, signed, expected):
    assert chosen(trained, signed, floor=2) == expected


@pytest.mark.parametrize("tried", [cohorts.TRIED, 0])
def test_fewer_where_what_was_signed_is_too_near(tried, monkeypatch):
    monkeypatch.setattr(cohorts, "TRIED", tried)
    everybody = dict.fromkeys("abcdef", ("abcdefg",))
    assert len(chosen("abcdef", everybody, floor=2)) == 5
    assert len(chosen("abcdef", everybody, floor=3)) == 4


def test_two_camps_that_both_sign_for_others_together():
    """Some have signed for five of seven, others for all: none of both can come out, and another can."""
    signed = {"b": ("abcde",), "d": ("abcde",), "a": ("abcdefg",), "c": ("abcdefg",)}
    assert chosen("abcdefg", signed, floor=3, quorum=5) == "efg"


@pytest.mark.parametrize(
    ("trained", "signed", "floor", "quorum"),
    [("ab", {"a": ("abc",), "b": ("abc",)}, 2, 2), ("a", {"a": ("abc",)}, 2, 2), ("abc", {"a": ("bc",)}, 2, 4)],
    ids=["too near", "too few", "no quorum"],
)
def test_nobody_is_asked_where_it_would_not_be_signed(trained, signed, floor, quorum):
    with pytest.raises(RoundError, match="have to come"):
        chosen(trained, signed, floor=floor, quorum=quorum)
