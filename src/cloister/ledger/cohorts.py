"""The choice of a cohort among the owners that have trained, after rounds that were signed and never released.

An owner refuses a cohort that differs by fewer than ``floor`` members from one that it has signed on the same model: it
cannot know whether that one was released, and the difference of the two would be about too few. When an owner has
trained, it says what it has signed. So any instance can find members who will all sign, and asks no others.
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
"""The most cohorts that are looked at one by one: all that twelve owners can form."""


def choose(trained: Members, *, signed: Mapping[str, frozenset[Members]], floor: int, quorum: int) -> Members:
    """Chooses the members of the next cohort.

    Args:
        trained: the owners that can be in it.
        signed: for each owner that is there, the members of the cohorts that it says it has signed on this model.
        floor, quorum: the least number of owners in a cohort, and of those who sign it.

    Raises:
        RoundError: no cohort would be signed by all of its members and by a quorum.

    The first choice is all of ``trained``. Next come the cohorts that were signed before, and the owners that remain
    without everybody unwilling, the largest first. The last are other groups, larger ones first.
    """
    for members in _candidates(trained, signed, floor):
        if len(members) >= floor and would_be_signed(members, signed=signed, floor=floor, quorum=quorum):
            return members
    raise RoundError(
        f"no {floor} or more of the owners that have trained would all sign: some have signed another cohort on this"
        f" model, and refuse one that differs from it by fewer than {floor} owners. Other owners have to come"
    )


def would_be_signed(members: Members, *, signed: Mapping[str, frozenset[Members]], floor: int, quorum: int) -> bool:
    """Whether all ``members`` would sign a cohort of themselves, and a quorum of all owners that are there would."""
    willing = signed.keys() - _unwilling(members, signed, floor)
    return members <= willing and len(willing) >= quorum


def _unwilling(members: Members, signed: Mapping[str, frozenset[Members]], floor: int) -> Members:
    return frozenset(
        owner for owner, others in signed.items() if any(_too_near(members, other, floor) for other in others)
    )


def _too_near(members: Members, other: Members, floor: int) -> bool:
    return 0 < len(members ^ other) < floor


def _believed(owners: int, *, floor: int) -> bool:
    """Whether one of so many owners is honest: at most ``floor`` - 2 lie to have others left out."""
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
