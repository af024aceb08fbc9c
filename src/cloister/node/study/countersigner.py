"""An owner's decision to sign a cohort. Nothing is released unless all of its members sign it, and a quorum does.

Numbers are those of "Before an owner signs" in docs/ledger.md.

An aggregator can be restarted, cloned and rolled back, and has no counter that survives this. Its members are that
counter: each signs one cohort a round, no round out of order, and no two cohorts on one model that differ by too few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from cloister.charter import Charter, keys
from cloister.charter.jobs import AgreedJob
from cloister.charter.keys import PrivateKey
from cloister.charter.owner_limits import Floors
from cloister.errors import JobError, RoundError
from cloister.ledger.chain import Ledger
from cloister.ledger.records import Cohort, cohort_to_be_signed, decode_cohort
from cloister.node.study.entries import Signed
from cloister.node.study.journal import Records
from cloister.wire.peers import fingerprint


class OwnLimits:
    """The charter's limits, or the owner's where those are stricter."""

    def __init__(self, charter: Charter, *, floors: Floors | None) -> None:
        agreed, floors = charter.limits, floors or Floors()
        self.floor = max(agreed.floor, floors.floor or 0)
        self.min_examples = max(agreed.min_examples, floors.min_examples or 0)
        self.largest_share = min(agreed.largest_share, _or_any(floors.largest_share))
        self.min_batch = max(agreed.min_batch, floors.min_batch or 0)
        self.clip = min(agreed.clip, _or_any(floors.clip))
        self.clip_buffers = agreed.clip_buffers
        self._buckets = (agreed.min_examples, *agreed.row_buckets)
        self.rounds = agreed.rounds if floors.rounds is None else min(agreed.rounds, floors.rounds)
        self.rounds_by = "the charter's `rounds` allows" if self.rounds == agreed.rounds else "its owner's floors allow"
        self._ranges = {metric.name: (metric.low, metric.high) for metric in agreed.metrics}

    def check_job(self, job: AgreedJob) -> None:
        """Checks that a job of the charter keeps the owner's own limits too.

        Raises:
            JobError: it does not.
        """
        if job.batch_size < self.min_batch:
            raise JobError(
                f"the job's steps are of {job.batch_size} rows, and at least {self.min_batch} are asked for here"
            )

    def told(self, examples: int) -> int:
        """What is told of so many rows: the greatest of the charter's buckets that is not above it."""
        return max(bucket for bucket in self._buckets if bucket <= examples)

    def released(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics among these that the charter names, clipped to its ranges."""
        return {
            name: min(max(value, self._ranges[name][0]), self._ranges[name][1])
            for name, value in metrics.items()
            if name in self._ranges and not math.isnan(value)
        }


def _or_any(limit: float | None) -> float:
    return math.inf if limit is None else limit


class Countersigner:
    """Signs for one owner under one charter. It writes a signature down before it gives it away."""

    def __init__(self, charter: Charter, *, key: PrivateKey, limits: OwnLimits, records: Records) -> None:
        self._digest = charter.digest
        self._ids = {member.key: member.id for member in charter.members}
        self._key = key
        self.public_key: Final = keys.public_bytes(key)
        self._fingerprint = fingerprint(self.public_key)
        self._limits = limits
        self._records = records

    def sign(self, encoded: bytes, *, number: int, ledger: Ledger, proved: bool, jobs: Mapping[bytes, str]) -> Signed:
        """Signs a cohort. The signature is on the disk before this returns; one that exists already is given again.

        Args:
            proved: whether the newest instance of ``ledger`` has proved its key and its ledger in this round.
            jobs: the names in the charter of the jobs that were shown, by their digests; empty for one that is refused.

        Raises:
            RoundError, LedgerError, RecordsError: it is not signed.
        """
        with self._records.together:  # of two charters that are signed for at once, the second sees the first
            return self._sign(decode_cohort(encoded), encoded, number, ledger, proved, jobs)

    def _sign(
        self, cohort: Cohort, encoded: bytes, number: int, ledger: Ledger, proved: bool, jobs: Mapping[bytes, str]
    ) -> Signed:
        if cohort.round != number:  # 1
            raise RoundError("it is of another round")
        before = self._records.signed(self._digest)
        if (known := before.get(number)) is not None and known.cohort == encoded:  # 2
            return known
        if number <= max((0, *before)):  # 2 and 3
            raise RoundError(f"a cohort of round {max(before)} was signed already: one a round, and in their order")
        if not proved or cohort.signer != ledger.signer:  # 4
            raise RoundError("the instance has not proved, in this round, the key and the ledger that it is for")
        ledger.check_cohort(cohort)  # 5
        if jobs.get(cohort.job, cohort.name) != cohort.name:  # 6
            raise RoundError("it calls the job otherwise than the charter, or the job is refused here")
        members = frozenset(self._ids[share.member] for share in cohort.shares)
        self._check_members(cohort, members)
        data = self._check_own(cohort)
        signature = keys.sign(cohort_to_be_signed(encoded), key=self._key)
        signed = Signed(self._digest, number, cohort.model, tuple(sorted(members)), encoded, signature, data)
        self._records.sign(signed)
        return signed

    def check_budget(self, data: str) -> None:
        """Checks that a data set has budget for one more release.

        Raises:
            RoundError: it has none.
        """
        spent = self._records.spent(data)
        if spent >= self._limits.rounds:
            raise RoundError(
                f"the data set {data!r} was in {spent} releases, those of earlier studies included, and"
                f" {self._limits.rounds_by} {self._limits.rounds}"
            )

    def _check_members(self, cohort: Cohort, members: frozenset[str]) -> None:
        limits = self._limits
        if len(members) < limits.floor:  # 7
            raise RoundError(f"it has {len(members)} members, and at least {limits.floor} are asked for here")
        if any(share.weight > math.nextafter(limits.largest_share, math.inf) for share in cohort.shares):  # 8
            raise RoundError(f"a member counts for more than {limits.largest_share:g}")
        for other in self._records.on_model(cohort.model, charter=self._digest):
            differing = len(members ^ other)
            if 0 < differing < limits.floor:  # 9
                raise RoundError(
                    f"a cohort that differs in {differing} members was signed on the same model; the difference of the"
                    f" two would be theirs alone, and at least {limits.floor} are asked for here"
                )

    def _check_own(self, cohort: Cohort) -> str | None:
        """The data set of our own contribution, if the cohort has one of ours."""
        own = next((share for share in cohort.shares if share.member == self._fingerprint), None)
        took_part = self._records.took_part(self._digest)
        if cohort.round < max((0, *took_part)):  # 10
            raise RoundError(f"round {max(took_part)} has begun since")
        if own is None:
            return None
        known = took_part.get(cohort.round)
        if known is None:  # 11, as the next two
            raise RoundError("we contributed nothing to this round")
        if (known.job, known.digest) != (cohort.job, cohort.digest):
            raise RoundError("we trained for another job or another round")
        if known.commitment != own.commitment:
            raise RoundError("it names another contribution than ours")
        self.check_budget(known.data)  # 12
        return known.data
