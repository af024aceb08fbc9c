"""An owner's decisions to consent to a cohort and to commit it. Nothing is released without the consent of all members
and the commits of a quorum.

Numbers are those of "Before an owner signs" in docs/ledger.md.

An aggregator can be restarted, cloned and rolled back, and has no counter that survives this. Its members are that
counter: each commits one cohort a round, none of a round before one that it has answered, and no two cohorts on one
model that differ by too few, unless the first one is void.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from cloister.charter import Charter, keys
from cloister.charter.keys import PrivateKey
from cloister.charter.owner_limits import PrivacyBudget
from cloister.errors import RoundError
from cloister.ledger.chain import Ledger
from cloister.ledger.records import (
    Cohort,
    Noised,
    cohort_digest,
    commit_to_be_signed,
    consent_to_be_signed,
    decode_cohort,
)
from cloister.node.study.entries import Committed, Consented
from cloister.node.study.journal import Records
from cloister.node.study.own_limits import OwnLimits
from cloister.node.study.privacy import check_privacy
from cloister.wire.peers import fingerprint
from cloister.wire.rounds import MemberSignature


class Asked(NamedTuple):
    """A cohort that an owner is asked to sign, and what it knows of the instance that asks."""

    cohort: bytes
    """Encoded."""
    round: int
    ledger: Ledger
    proved: bool
    """Whether the newest instance of ``ledger`` has proved its key and its ledger in this round."""
    jobs: Mapping[bytes, str]
    """The names in the charter of the jobs that were shown, by their digests; empty for one that is refused."""


class Countersigner:
    """Signs for one owner under one charter. It writes a signature down before it gives it away."""

    def __init__(
        self,
        charter: Charter,
        *,
        key: PrivateKey,
        limits: OwnLimits,
        records: Records,
        budgets: Mapping[str, PrivacyBudget] | None = None,
    ) -> None:
        self._digest = charter.digest
        self._charter_floor = charter.limits.floor
        self._ids = {member.key: member.id for member in charter.members}
        self._key = key
        self._public: Final = keys.public_bytes(key)
        self._fingerprint = fingerprint(self._public)
        self._limits = limits
        self._records = records
        self._budgets = budgets or {}

    def consent(self, asked: Asked) -> MemberSignature:
        """Agrees to be in a cohort. That is on the disk before this returns; its round is spent from then on.

        Raises:
            RoundError, LedgerError, RecordsError: it is not agreed to.
        """
        with self._records.together:  # of two charters that are signed for at once, the second sees the first
            cohort, members = self._check(asked)
            self._check_limits(cohort, members)
            data = self._check_own(cohort)
            self._check_elsewhere(cohort, members)
            digest = cohort_digest(asked.cohort)
            if all(each.cohort != digest for each in self._records.consents(self._digest)):
                ids = tuple(sorted(members))
                entry = Consented(self._digest, cohort.round, digest, cohort.model, ids, data, cohort.noise)
                self._records.consent(entry)
        return self._sign(consent_to_be_signed(asked.cohort))

    def commit(self, asked: Asked, *, outcome: bytes, consents: Sequence[MemberSignature]) -> MemberSignature:
        """Commits a cohort and its outcome. That is on the disk before this returns; the very same is committed again.

        Raises:
            RoundError, LedgerError, RecordsError: it is not committed.
        """
        with self._records.together:
            cohort, members = self._check(asked)
            asked.ledger.check_consents(cohort, consents, encoded=asked.cohort)  # 11
            ids = tuple(sorted(members))
            entry = Committed(self._digest, cohort.round, cohort_digest(asked.cohort), cohort.model, ids, outcome)
            known = self._records.commits(self._digest).get(cohort.round)
            if known is not None and known != entry:  # 12
                raise RoundError("another cohort or outcome of this round was committed already: one a round")
            if known is None:
                self._check_can_commit(cohort, members)
                self._records.commit(entry)
        return self._sign(commit_to_be_signed(asked.cohort, outcome))

    def check_budget(self, data: str, *, number: int, noise: Noised | None) -> None:
        """Checks that a data set has budget for this round: of rounds, and of privacy where its owner gives it one.

        Raises:
            RoundError: it has none.
        """
        before = self._records.noises(data, besides=(self._digest, number))
        if len(before) >= self._limits.rounds:
            raise RoundError(
                f"the data set {data!r} was in {len(before)} rounds that were released or still may be, those of"
                f" earlier studies included, and {self._limits.rounds_by} {self._limits.rounds}"
            )
        if data in self._budgets:
            check_privacy(data, budget=self._budgets[data], before=before, noise=noise)

    def left(self, data: str, *, number: int, noise: Noised | None) -> int:
        """The rounds that a data set has left before this one, of its number of rounds; 0 where its privacy budget has
        no room for one more."""
        try:
            self.check_budget(data, number=number, noise=noise)
        except RoundError:
            return 0
        return max(0, self._limits.rounds - self._records.spent(data, besides=(self._digest, number)))

    def _check(self, asked: Asked) -> tuple[Cohort, frozenset[str]]:
        """What holds of a cohort that is consented to or committed. Returns it, and its members' ids."""
        cohort = decode_cohort(asked.cohort)
        if cohort.round != asked.round:  # 1
            raise RoundError("it is of another round")
        if not asked.proved or cohort.signer != asked.ledger.signer:  # 2
            raise RoundError("the instance has not proved, in this round, the key and the ledger that it is for")
        asked.ledger.check_cohort(cohort)  # 3
        if asked.jobs.get(cohort.job, cohort.name) != cohort.name:  # 4
            raise RoundError("it calls the job otherwise than the charter, or the job is refused here")
        if self._records.is_void(self._digest, cohort_digest(asked.cohort)):  # 5
            raise RoundError("it is void: owners have answered later rounds without it, and it cannot be released")
        return cohort, frozenset(self._ids[share.member] for share in cohort.shares)

    def _check_limits(self, cohort: Cohort, members: frozenset[str]) -> None:
        limits = self._limits
        if len(members) < limits.floor:  # 6
            raise RoundError(f"it has {len(members)} members, and at least {limits.floor} are asked for here")
        if any(share.weight > math.nextafter(limits.largest_share, math.inf) for share in cohort.shares):  # 7
            raise RoundError(f"a member counts for more than {limits.largest_share:g}")

    def _check_own(self, cohort: Cohort) -> str:
        """The data set of our own contribution, which is in the cohort."""
        own = next((share for share in cohort.shares if share.member == self._fingerprint), None)
        known = self._records.took_part(self._digest).get(cohort.round)
        if own is None or known is None:  # 8, as the next three
            raise RoundError("we contributed nothing to it")
        if cohort.round < self._records.highest(self._digest):
            raise RoundError(f"round {self._records.highest(self._digest)} was answered since")
        if (known.job, known.digest) != (cohort.job, cohort.digest):
            raise RoundError("we trained for another job or another round")
        if known.commitment != own.commitment:
            raise RoundError("it names another contribution than ours")
        self.check_budget(known.data, number=cohort.round, noise=cohort.noise)  # 9
        return known.data

    def _check_elsewhere(self, cohort: Cohort, members: frozenset[str]) -> None:
        """Quorums of two charters need share nobody, so each member looks at what it agreed to under the other."""
        floor = self._limits.floor
        for agreed in self._records.consented_elsewhere(cohort.model, charter=self._digest):  # 10
            _check_far(members, agreed.members, floor=floor, what="agreed to under another charter")
        for each in self._records.committed_on(cohort.model, charter=self._digest):
            far = len(members.symmetric_difference(each.members)) >= self._charter_floor
            if far:  # else a quorum does not commit it
                _check_far(members, each.members, floor=floor, what="committed")

    def _check_can_commit(self, cohort: Cohort, members: frozenset[str]) -> None:
        if cohort.round < (highest := self._records.highest(self._digest)):  # 13
            raise RoundError(f"round {highest} was answered since")
        for each in self._records.committed_on(cohort.model, charter=self._digest):  # 14
            _check_far(members, each.members, floor=self._charter_floor, what="committed")

    def _sign(self, message: bytes) -> MemberSignature:
        return MemberSignature(self._fingerprint, self._public, keys.sign(message, key=self._key))


def _check_far(members: frozenset[str], other: Iterable[str], *, floor: int, what: str) -> None:
    differing = len(members.symmetric_difference(other))
    if 0 < differing < floor:
        raise RoundError(
            f"a cohort that differs in {differing} members was {what} on the same model; the difference of the two"
            f" would be theirs alone, and at least {floor} are asked for here"
        )
