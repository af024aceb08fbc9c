"""Who is in a cohort: a law that holds whatever owners say, and what is chosen in the cases that come up."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import RoundError
from cloister.ledger import cohorts
from cloister.ledger.cohorts import Bound, choose, would_be_committed

OWNERS: Final = "abcdefg"
sets = st.frozensets(st.sampled_from(OWNERS), min_size=1)
bounds = st.builds(Bound, st.frozensets(sets, max_size=3), st.frozensets(sets, max_size=2))


def bound_by(committed: tuple[str, ...] = (), elsewhere: tuple[str, ...] = ()) -> Bound:
    return Bound(frozenset(map(frozenset, committed)), frozenset(map(frozenset, elsewhere)))


def chosen(
    trained: str,
    committed: dict[str, tuple[str, ...]],
    elsewhere: dict[str, tuple[str, ...]] | None = None,
    *,
    floor: int,
    quorum: int = 2,
    there: str = "",
) -> str:
    """As ``choose``, with owners that are called by letters. ``there``: those who are bound by nothing."""
    before = elsewhere or {}
    owners = {*trained, *committed, *before, *there}
    bound = {owner: bound_by(committed.get(owner, ()), before.get(owner, ())) for owner in owners}
    return "".join(sorted(choose(frozenset(trained), bound=bound, floor=floor, quorum=quorum)))


def agreed(members: frozenset[str], bound: dict[str, Bound], *, floor: int, quorum: int) -> bool:
    """Whether these consent, and enough of all commit, by hand."""

    def far(others: frozenset[frozenset[str]]) -> bool:
        return all(len(members ^ other) not in range(1, floor) for other in others)

    commits = [owner for owner, each in bound.items() if far(each.committed) and far(each.elsewhere)]
    return all(far(bound[owner].elsewhere) for owner in members) and len(commits) >= quorum


@given(
    st.frozensets(st.sampled_from(OWNERS)),
    st.dictionaries(st.sampled_from(OWNERS), bounds),
    st.integers(2, 4),
    st.integers(2, 7),
)
def test_of_few_owners_a_cohort_that_would_be_committed_is_found_if_there_is_one(trained, told, floor, quorum):
    bound = {owner: told.get(owner, Bound()) for owner in trained | told.keys()}
    every = [frozenset(each) for size in range(floor, len(trained) + 1) for each in combinations(trained, size)]
    possible = [each for each in every if agreed(each, bound, floor=floor, quorum=quorum)]
    for each in every:
        assert would_be_committed(each, bound=bound, floor=floor, quorum=quorum) == (each in possible)
    try:
        assert choose(trained, bound=bound, floor=floor, quorum=quorum) in possible
    except RoundError:
        assert not possible


@pytest.mark.slow
@given(st.integers(3, 5), st.data())
def test_owners_who_lie_about_what_binds_them_leave_out_nobody_else(floor, data):
    """As many as may break their word, where the others are enough, and are bound by nothing on this model."""
    liars = data.draw(st.frozensets(st.sampled_from(OWNERS), max_size=floor - 2))
    honest = frozenset(OWNERS) - liars
    bound = {owner: data.draw(bounds) if owner in liars else Bound() for owner in OWNERS}
    quorum = (len(OWNERS) + floor) // 2
    if len(honest) >= quorum:
        assert honest <= choose(frozenset(OWNERS), bound=bound, floor=floor, quorum=quorum)


# Who consents, and who commits


def test_what_an_owner_committed_binds_its_commits_and_not_its_consent():
    each = bound_by(committed=("abc",))
    near, same, far = frozenset("ab"), frozenset("abc"), frozenset("bcd")
    assert [each.lets_commit(members, 2) for members in (near, same, far)] == [False, True, True]
    assert [each.lets_consent(members, 2) for members in (near, same, far)] == [True, True, True]


def test_what_an_owner_agreed_to_elsewhere_binds_both():
    each = bound_by(elsewhere=("abc",))
    near, same, far = frozenset("ab"), frozenset("abc"), frozenset("bcd")
    assert [each.lets_commit(members, 2) for members in (near, same, far)] == [False, True, True]
    assert [each.lets_consent(members, 2) for members in (near, same, far)] == [False, True, True]


@pytest.mark.parametrize(("floor", "lets"), [(2, True), (3, False), (4, False)])
def test_two_cohorts_are_near_where_they_differ_by_fewer_than_the_floor(floor, lets):
    assert bound_by(committed=("abcd",)).lets_commit(frozenset("abce"), floor) is lets
    assert bound_by(elsewhere=("abcd",)).lets_consent(frozenset("abce"), floor) is lets


def test_a_quorum_of_those_who_are_there_commits_members_or_not():
    members = frozenset("ab")
    bound = {"a": bound_by(("abc",)), "b": bound_by(("abc",)), **dict.fromkeys("cd", Bound())}
    for quorum, would in ((2, True), (3, False)):  # neither member commits it, and both consent
        assert would_be_committed(members, bound=bound, floor=2, quorum=quorum) is would
    there = {owner: each for owner, each in bound.items() if owner != "d"}
    assert not would_be_committed(members, bound=there, floor=2, quorum=2)


def test_one_member_that_does_not_consent_is_enough_to_refuse():
    bound = dict.fromkeys("abcdefg", Bound())
    members = frozenset("abc")
    assert would_be_committed(members, bound=bound, floor=2, quorum=5)
    binding = bound_by(elsewhere=("abcd",))
    assert not would_be_committed(members, bound=bound | {"a": binding}, floor=2, quorum=5)
    # Who is not in it need not consent; it does not commit either.
    assert would_be_committed(members, bound=bound | {"e": binding}, floor=2, quorum=6)
    assert not would_be_committed(members, bound=bound | {"e": binding}, floor=2, quorum=7)


def test_a_member_that_can_commit_no_more_consents_still():
    """It has trained, and is not among those whose commits count."""
    bound = dict.fromkeys("bcd", Bound())
    assert would_be_committed(frozenset("ab"), bound=bound, floor=2, quorum=3)
    assert not would_be_committed(frozenset("ab"), bound=bound, floor=2, quorum=4)


# What is chosen


@pytest.mark.parametrize(
    ("trained", "committed", "expected"),
    [
        ("abc", {}, "abc"),
        ("abc", {"a": ("abc",), "b": ("abc",)}, "abc"),
        ("abc", {"a": ("ab",)}, "abc"),
        ("abc", {"a": ("ab",), "b": ("ab",)}, "ab"),
        ("abcd", {"a": ("ab",), "b": ("ab",)}, "abcd"),
        ("abcd", dict.fromkeys("abd", ("abcde",)), "abc"),
        ("abcdef", dict.fromkeys("abcde", ("abcde",)), "abcde"),
    ],
    ids=["nothing", "all again", "one of them commits not", "made up for", "far enough", "far from it", "the larger"],
)
def test_of_two_at_least(trained, committed, expected):
    assert chosen(trained, committed, floor=2) == expected


@pytest.mark.parametrize(
    ("trained", "elsewhere", "expected"),
    [
        ("abc", {"a": ("abc",)}, "abc"),
        ("abc", {"a": ("ab",)}, "ab"),
        ("abcd", {"d": ("abcde",)}, "abc"),
        ("abcd", {"a": ("ab",)}, "abcd"),
        ("abcd", {"d": ("abcde",), "a": ("abcde",)}, "bc"),
    ],
    ids=["the same", "that again", "without one", "far enough", "without those who agreed"],
)
def test_of_two_at_least_with_what_they_agreed_to_elsewhere(trained, elsewhere, expected):
    assert chosen(trained, {}, elsewhere, floor=2) == expected


@pytest.mark.parametrize("tried", [cohorts.TRIED, 0])
def test_fewer_where_what_was_committed_is_too_near(tried, monkeypatch):
    monkeypatch.setattr(cohorts, "TRIED", tried)
    everybody = dict.fromkeys("abcdef", ("abcdefg",))
    assert len(chosen("abcdef", everybody, floor=2)) == 5
    assert len(chosen("abcdef", everybody, floor=3)) == 4
    assert len(chosen("abcdef", {}, everybody, floor=2)) == 5
    assert len(chosen("abcdef", {}, everybody, floor=3)) == 4


def test_two_camps_that_both_commit_others_together():
    """Some have committed five of seven, others all: none of both can come out, and another can."""
    committed = dict.fromkeys("abd", ("abcde",)) | dict.fromkeys("cef", ("abcdefg",))
    found = chosen("abcdefg", committed, floor=3, quorum=5)
    assert found == "cefg"
    assert all(len({*found} ^ {*other}) >= 3 for other in ("abcde", "abcdefg"))


@pytest.mark.parametrize(
    ("trained", "committed", "floor", "quorum"),
    [("ab", {"a": ("abc",), "b": ("abc",)}, 2, 2), ("a", {"a": ("abc",)}, 2, 2), ("abc", {"a": ("bc",)}, 2, 4)],
    ids=["too near", "too few", "no quorum"],
)
def test_nobody_is_asked_where_it_would_not_be_committed(trained, committed, floor, quorum):
    with pytest.raises(RoundError, match="have to come"):
        chosen(trained, committed, floor=floor, quorum=quorum)


def test_where_too_few_are_there_nobody_is_said_to_refuse():
    with pytest.raises(RoundError, match="3 owners have to commit a round, and of those that are there 2 can"):
        chosen("ab", {}, floor=2, quorum=3)
    with pytest.raises(RoundError, match="some have committed another one"):
        chosen("ab", {"a": ("abc",), "b": ("abc",)}, floor=2, quorum=3, there="c")


def test_one_who_agreed_elsewhere_may_stop_all_that_it_is_needed_for():
    with pytest.raises(RoundError, match="have to come"):
        chosen("ab", {}, {"a": ("abc",)}, floor=2, there="cdefg")
    assert chosen("abd", {}, {"a": ("abc",)}, floor=2, there="cefg") == "abd"
