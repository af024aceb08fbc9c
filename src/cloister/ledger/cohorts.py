"""The choice of a cohort among the owners that have trained, after rounds that were committed and never released.

An owner commits no cohort that differs by fewer than ``floor`` members from one that it has committed on the same model
and that may still be released: the difference of the two would be about too few. It says so when it answers a round. So
any instance can find a cohort that a quorum will commit, and asks for no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from typing import Final, NamedTuple, TypeAlias

from cloister.errors import RoundError

Members: TypeAlias = frozenset[str]
"""Owners, by their fingerprints."""
TRIED: Final = 1 << 12
"""The most cohorts that are looked at one by one: all that twelve owners can form."""


class Bound(NamedTuple):
    """What binds an owner: the members of each cohort that it has committed and that may still be released, and of each
    that it has agreed to under other charters. All are on the round's model."""

    committed: frozenset[Members] = frozenset()
    elsewhere: frozenset[Members] = frozenset()

    def lets_commit(self, members: Members, floor: int) -> bool:
        """Whether the owner would commit this cohort."""
        return not any(_too_near(members, other, floor) for other in self.committed | self.elsewhere)

    def lets_consent(self, members: Members, floor: int) -> bool:
        """Whether it would be in it."""
        return not any(_too_near(members, other, floor) for other in self.elsewhere)


def choose(trained: Members, *, bound: Mapping[str, Bound], floor: int, quorum: int) -> Members:
    """Chooses the members of the next cohort.

    Args:
        trained: the owners that can be in it.
        bound: what binds each owner that is there and can still commit this round.
        floor, quorum: the least number of owners in a cohort, and of those who commit it.

    Raises:
        RoundError: no cohort would have the consent of all of its members and the commits of a quorum.

    The first choice is all of ``trained``. Next come the cohorts that were committed before, and the owners that remain
    without everybody unwilling, the largest first. The last are other groups, larger ones first.
    """
    for members in _candidates(trained, bound, floor):
        if len(members) >= floor and would_be_committed(members, bound=bound, floor=floor, quorum=quorum):
            return members
    if len(bound) < quorum:
        raise RoundError(
            f"{quorum} owners have to commit a round, and of those that are there {len(bound)} can. Other owners have"
            " to come"
        )
    raise RoundError(
        f"no {floor} of those that have trained make a cohort that {quorum} owners would commit: some have committed"
        f" another one on this model, which may still be released, and refuse one that differs from it by fewer than"
        f" {floor} owners. Other owners have to come"
    )


def would_be_committed(members: Members, *, bound: Mapping[str, Bound], floor: int, quorum: int) -> bool:
    """Whether all ``members`` would consent to a cohort of themselves, and a quorum of owners would commit it."""
    willing = sum(each.lets_commit(members, floor) for each in bound.values())
    return willing >= quorum and all(bound.get(each, Bound()).lets_consent(members, floor) for each in members)


def _unwilling(members: Members, bound: Mapping[str, Bound], floor: int) -> Members:
    return frozenset(owner for owner, each in bound.items() if not each.lets_commit(members, floor))


def _too_near(members: Members, other: Members, floor: int) -> bool:
    return 0 < len(members ^ other) < floor


def _believed(owners: int, *, floor: int) -> bool:
    """Whether one of so many owners is honest: at most ``floor`` - 2 lie to have others left out."""
    return owners >= floor - 1


def _candidates(trained: Members, bound: Mapping[str, Bound], floor: int) -> Iterator[Members]:
    yield trained
    told = Counter(other for each in bound.values() for other in each.committed | each.elsewhere)
    before = [other for other, owners in told.items() if _believed(owners, floor=floor) and other <= trained]
    without = trained
    while unwilling := without & _unwilling(without, bound, floor):
        without = without - unwilling
    yield from sorted([*sorted(before, key=sorted), without], key=len, reverse=True)
    fewer_and_fewer = (each for size in range(len(trained), 0, -1) for each in combinations(sorted(trained), size))
    yield from map(frozenset, islice(fewer_and_fewer, TRIED))
    shared = sorted(trained.intersection(*(other for other in told if len(trained ^ other) < floor)))
    for fewer in range(1, floor + 1):
        for at in range(len(shared)):
            yield trained - {shared[(at + step) % len(shared)] for step in range(fewer)}
