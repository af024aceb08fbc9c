"""Who of those that have trained are in one cohort, after rounds that owners signed and that never came out.

An owner refuses a cohort that differs from one that it has signed, on the same model, by fewer than ``floor`` members:
it cannot know whether that one was released, and the difference of the two would be about too few. Each says what it
has signed when it has trained, so that whatever instance runs finds members who will all sign, and asks no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from typing import Final, TypeAlias

from cloister.errors import RoundError

Members: TypeAlias = frozenset[str]
"""Owners, by their fingerprints."""
TRIED: Final = 1 << 12
"""How many cohorts are looked at one by one: all that there are of twelve owners."""


def choose(trained: Members, *, signed: Mapping[str, frozenset[Members]], floor: int, quorum: int) -> Members:
    """The members of the next cohort.

    Args:
        trained: those who can be in it.
        signed: for each owner that is there, the members of the cohorts that it says it has signed on this model.
        floor, quorum: how many have to be in a cohort, and how many have to sign one, at least.

    Raises:
        RoundError: there are none who would all sign, or too few others would.

    All of them, if they would sign; else the most of a cohort that was signed before, which is made up for, and of
    those who would sign for themselves together; else some others, so that what was signed before is far enough.
    """
    for members in _candidates(trained, signed, floor):
        if len(members) >= floor and would_be_signed(members, signed=signed, floor=floor, quorum=quorum):
            return members
    raise RoundError(
        f"no {floor} or more of those that have trained would all sign: some have signed for others on this model, and"
        f" sign for nobody now who differs from those in fewer than {floor}. Other owners have to come"
    )


def would_be_signed(members: Members, *, signed: Mapping[str, frozenset[Members]], floor: int, quorum: int) -> bool:
    """Whether all of these would sign for a cohort of themselves, and enough of all that are there."""
    willing = signed.keys() - _unwilling(members, signed, floor)
    return members <= willing and len(willing) >= quorum


def _unwilling(members: Members, signed: Mapping[str, frozenset[Members]], floor: int) -> Members:
    return frozenset(
        owner for owner, others in signed.items() if any(_too_near(members, other, floor) for other in others)
    )


def _too_near(members: Members, other: Members, floor: int) -> bool:
    return 0 < len(members ^ other) < floor


def _believed(owners: int, *, floor: int) -> bool:
    """Whether so many say what is true: those who would have others left out are at most ``floor`` - 2."""
    return owners >= floor - 1


def _candidates(trained: Members, signed: Mapping[str, frozenset[Members]], floor: int) -> Iterator[Members]:
    yield trained
    told = Counter(frozenset(other) for others in signed.values() for other in others)
    before = [other for other, owners in told.items() if _believed(owners, floor=floor) and other <= trained]
    without = trained
    while unwilling := without & _unwilling(without, signed, floor):
        without = without - unwilling
    yield from sorted([*sorted(before, key=sorted), without], key=len, reverse=True)
    fewer_and_fewer = (each for size in range(len(trained), 0, -1) for each in combinations(sorted(trained), size))
    yield from map(frozenset, islice(fewer_and_fewer, TRIED))
    shared = sorted(trained.intersection(*(other for other in told if len(trained ^ other) < floor)))
    for fewer in range(1, floor + 1):
        for at in range(len(shared)):
            yield trained - {shared[(at + step) % len(shared)] for step in range(fewer)}
