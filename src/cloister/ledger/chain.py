"""The ledger: a chain of records of one charter, and the checks that a record passes before it becomes part of it.

The aggregator, members and auditors run the same checks. What they show, and what they do not, is in docs/ledger.md:
evidence in the records of instances is looked at by ``cloister.ledger.audit``, not here.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister.attest.transcript import Transcript
from cloister.charter import keys
from cloister.charter.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.charter.names import shown
from cloister.errors import CharterError, EvidenceError, LedgerError
from cloister.ledger.job import round_digest
from cloister.ledger.noise import noise_of
from cloister.ledger.records import (
    Cohort,
    InstanceRecord,
    Record,
    RoundRecord,
    cohort_digest,
    commit_to_be_signed,
    consent_to_be_signed,
    decode,
    decode_cohort,
    head_of,
    nonce_of,
    outcome_digest,
    to_be_signed,
)
from cloister.wire.peers import fingerprint
from cloister.wire.rounds import MemberSignature

ROUNDING: Final = 1e-9
"""The most by which the sum of a cohort's weights may differ from 1."""


def quorum(charter: Charter) -> int:
    """The number of owners that have to commit a round before it is released (docs/adr/0010)."""
    return charter.quorum


def votes_to_void(charter: Charter) -> int:
    """The number of owners whose answers make a cohort void that none of them lists (docs/adr/0016).

    All others, with ``floor - 2`` that lie in their answers, are too few for a quorum.
    """
    return len(charter.owners) - quorum(charter) + charter.limits.floor - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance that has begun: its record, and what its evidence is about."""

    record: InstanceRecord
    transcript: Transcript
    head: bytes
    """The record's hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A round that was released: its record, as it travels, and the cohort that its members consented to."""

    data: bytes
    cohort: Cohort
    model: bytes
    """The new model's digest."""
    state: bytes | None
    """That of its strategy's state; None where it has none."""
    head: bytes
    """The record's hash."""

    @property
    def record(self) -> RoundRecord:
        """The record, decoded each time: kept beside its bytes it would be most of what a long study weighs."""
        record = decode(self.data)
        if not isinstance(record, RoundRecord):
            raise AssertionError("a receipt is a round's")
        return record

    @property
    def members(self) -> frozenset[str]:
        """The fingerprints of those whose contributions are in it."""
        return frozenset(share.member for share in self.cohort.shares)


@dataclass(frozen=True, slots=True)
class _Chain:
    records: tuple[bytes, ...] = ()
    heads: tuple[bytes, ...] = ()
    instances: tuple[Instance, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    commitments: frozenset[bytes] = frozenset()
    cohorts: frozenset[bytes] = frozenset()


class Ledger:
    """The records of one charter from the first on, all of them checked. At first there are none."""

    def __init__(self, charter: Charter) -> None:
        self.charter = charter
        self._digest = charter.digest
        self._owners = {owner.key: shown(owner.name) for owner in charter.owners}
        self._metrics = {metric.name: metric for metric in charter.limits.metrics}
        self._chain = _Chain()

    @classmethod
    def from_records(cls, charter: Charter, records: Iterable[bytes]) -> Ledger:
        """The ledger of these records.

        Raises:
            LedgerError: they are no chain of this charter.
        """
        ledger = cls(charter)
        ledger.extend(records)
        return ledger

    def copy(self) -> Ledger:
        """The same records, to which others can be appended."""
        return self._with(self._chain)

    def settled(self) -> Ledger:
        """A copy without the instances after the newest round. No later chain may lack any of its records.

        An instance that released nothing may be missing from the chain that the others go on with.
        """
        return self.upto(self.receipts[-1].cohort.sequence if self.receipts else 0)

    def upto(self, count: int) -> Ledger:
        """The ledger of its first ``count`` records."""
        receipts = self.receipts[: bisect_right(self.receipts, count, key=lambda each: each.cohort.sequence)]
        used, cohorts = self.commitments, self.cohorts
        if len(receipts) < self.released:
            used = frozenset(share.commitment for each in receipts for share in each.cohort.shares)
            cohorts = frozenset(cohort_digest(each.record.cohort) for each in receipts)
        return self._with(
            _Chain(
                records=self.records[:count],
                heads=self._chain.heads[:count],
                instances=tuple(each for each in self.instances if each.record.sequence <= count),
                receipts=receipts,
                commitments=used,
                cohorts=cohorts,
            )
        )

    @property
    def records(self) -> tuple[bytes, ...]:
        """All records as they travel."""
        return self._chain.records

    @property
    def sequence(self) -> int:
        """The number of records."""
        return len(self._chain.records)

    @property
    def head(self) -> bytes:
        """The newest record's hash, 32 bytes; empty before the first."""
        return self._chain.heads[-1] if self._chain.heads else b""

    @property
    def heads(self) -> tuple[bytes, ...]:
        """The hash of each record."""
        return self._chain.heads

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that have begun, the newest last."""
        return self._chain.instances

    @property
    def signer(self) -> bytes | None:
        """The Ed25519 key of the newest instance, 32 bytes, which signs the next round; None before the first."""
        return self.instances[-1].transcript.signing_key if self.instances else None

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The rounds that were released, the newest last."""
        return self._chain.receipts

    @property
    def released(self) -> int:
        """The number of rounds that were released."""
        return len(self.receipts)

    @property
    def last_round(self) -> int:
        """The number of the newest round; 0 before the first."""
        return self.receipts[-1].cohort.round if self.receipts else 0

    @property
    def model(self) -> bytes | None:
        """The digest of the model that the next round starts from: the newest result, or the charter's first model."""
        return self.receipts[-1].model if self.receipts else self.charter.limits.first_model

    @property
    def state(self) -> bytes | None:
        """The digest of the strategy's state after the newest round; None where it has none."""
        return self.receipts[-1].state if self.receipts else None

    @property
    def commitments(self) -> frozenset[bytes]:
        """The commitments to all contributions so far; each is in one round."""
        return self._chain.commitments

    @property
    def cohorts(self) -> frozenset[bytes]:
        """The digests of the cohorts that were released (``cloister.ledger.records.cohort_digest``)."""
        return self._chain.cohorts

    def done(self, job: bytes) -> int:
        """The number of released rounds of the job with this digest."""
        return sum(receipt.cohort.job == job for receipt in self.receipts)

    def rounds_of(self, name: str) -> int:
        """The number of released rounds of the charter's job of this name, from whatever model it was begun."""
        return sum(receipt.cohort.name == name for receipt in self.receipts)

    def since(self, sequence: int) -> tuple[bytes, ...]:
        """The records after the first ``sequence``."""
        return self.records[max(sequence, 0) :]

    def passed(self, sequence: int, head: bytes) -> bool:
        """Whether ``head`` is, or once was, the head of this ledger with ``sequence`` records."""
        if sequence == 0:
            return head == b""
        return sequence <= self.sequence and self._chain.heads[sequence - 1] == head

    def append(self, data: bytes) -> Record:
        """Appends an encoded record, and returns it decoded.

        Raises:
            LedgerError: it is not the next record of this ledger; the ledger is as it was.
        """
        record, chain, data = decode(data), self._chain, bytes(data)
        head = head_of(data)
        try:
            if isinstance(record, InstanceRecord):
                instance = Instance(record=record, transcript=self._check_instance(record), head=head)
                chain = replace(chain, instances=(*chain.instances, instance))
            else:
                cohort = self._check_round(record)
                receipt = Receipt(data=data, cohort=cohort, model=record.model, state=record.state, head=head)
                used = chain.commitments.union(share.commitment for share in receipt.cohort.shares)
                cohorts = chain.cohorts | {cohort_digest(record.cohort)}
                chain = replace(chain, receipts=(*chain.receipts, receipt), commitments=used, cohorts=cohorts)
        except LedgerError as fault:
            raise LedgerError(f"record {self.sequence + 1} cannot stand: {fault}") from None
        self._chain = replace(chain, records=(*chain.records, data), heads=(*chain.heads, head))
        return record

    def extend(self, records: Iterable[bytes]) -> None:
        """Appends encoded records: all of them, or none.

        Raises:
            LedgerError: as ``append``.
        """
        grown = self.copy()
        for record in records:
            grown.append(record)
        self._chain = grown._chain

    def check_cohort(self, cohort: Cohort) -> bytes:
        """Checks that the next record could have this cohort, as far as the ledger can tell, and returns its signer.

        Raises:
            LedgerError: it could not.
        """
        if self.signer is None:
            raise LedgerError("a round before any instance has begun")
        self._check_place(cohort, what="its cohort")
        if cohort.signer != self.signer:
            raise LedgerError("its cohort is for another instance than the newest")
        self._check_shares(cohort, self._check_begin(cohort))
        return self.signer

    def check_consents(self, cohort: Cohort, consents: Sequence[MemberSignature], *, encoded: bytes) -> None:
        """Checks that all members of a cohort, and nobody else, have consented to it. ``encoded``: the same cohort.

        Raises:
            LedgerError: one has not.
        """
        members = {share.member for share in cohort.shares}
        signers = {each.member for each in consents}
        if missing := sorted(members - signers):
            raise LedgerError(
                f"{self._owners.get(missing[0], missing[0])} is in its cohort and has not consented to it"
            )
        if signers - members:
            raise LedgerError("somebody has consented to its cohort who is not in it")
        self._check_signatures(consents, message=consent_to_be_signed(encoded), what="consents")

    def _with(self, chain: _Chain) -> Ledger:
        ledger = copy.copy(self)
        ledger._chain = chain
        return ledger

    def _check_instance(self, record: InstanceRecord) -> Transcript:
        self._check_place(record, what="it")
        try:
            transcript = Transcript.decode(record.transcript)
        except EvidenceError as fault:
            raise LedgerError(str(fault)) from None
        if transcript.role != "aggregator" or transcript.charter != self._digest:
            raise LedgerError("its transcript is no aggregator's under this charter")
        if (transcript.ledger_sequence, transcript.ledger_head) != (self.sequence, self.head):
            raise LedgerError("its transcript is about another ledger, or another place in this one")
        if transcript.nonce != nonce_of(self.head):
            raise LedgerError("its transcript's nonce is not the head before it: it may have been made at any time")
        _check_signed(record, signer=transcript.signing_key)
        return transcript

    def _check_round(self, record: RoundRecord) -> Cohort:
        cohort = decode_cohort(record.cohort)
        signer = self.check_cohort(cohort)
        self._check_outcome(record)
        self.check_consents(cohort, record.consents, encoded=record.cohort)
        self._check_commits(record)
        _check_signed(record, signer=signer)
        return cohort

    def _check_place(self, placed: InstanceRecord | Cohort, *, what: str) -> None:
        if placed.charter != self._digest:
            raise LedgerError(f"{what} is of another charter")
        if placed.sequence != self.sequence + 1 or placed.previous != self.head:
            raise LedgerError(
                f"{what} is number {placed.sequence}, or follows another record than number {self.sequence}"
            )

    def _check_begin(self, cohort: Cohort) -> AgreedJob:
        limits = self.charter.limits
        if self.released >= limits.rounds:
            raise LedgerError(f"all {limits.rounds} rounds of the charter were released before it")
        if cohort.round <= self.last_round:
            raise LedgerError(f"round {cohort.round} comes after round {self.last_round}")
        if cohort.model != self.model:
            raise LedgerError("it starts from another model than the round before it released, or the charter names")
        begun = round_digest(
            cohort.job, charter=self._digest, number=cohort.round, model=cohort.model, head=cohort.previous
        )
        if cohort.digest != begun:
            raise LedgerError("its round digest is not that of its job, number, model and place")
        agreed = self.charter.job(cohort.name)
        if agreed is None:
            raise LedgerError(f"it is of a job {cohort.name!a}, and the charter has none of that name")
        if self.rounds_of(agreed.name) >= agreed.rounds:
            raise LedgerError(f"all {agreed.rounds} rounds of its job were released before it")
        if cohort.noise != noise_of(limits, agreed):
            raise LedgerError("its noise, or the rate or clip that it is for, is not what the charter and its job say")
        return agreed

    def _check_shares(self, cohort: Cohort, agreed: AgreedJob) -> None:
        limits = self.charter.limits
        members = [share.member for share in cohort.shares]
        self._check_owners(members, what="its cohort")
        if len(members) < limits.floor:
            raise LedgerError(f"its cohort has {len(members)} members, and the charter's floor is {limits.floor}")
        commitments = {share.commitment for share in cohort.shares}
        if len(commitments) < len(members) or commitments & self.commitments:
            raise LedgerError("a contribution in its cohort is there twice, or was in an earlier round")
        most = math.nextafter(limits.largest_share, math.inf)
        if not all(0 < share.weight <= most for share in cohort.shares):
            raise LedgerError(f"a weight in its cohort is not above 0 and at most {limits.largest_share}")
        if not abs(math.fsum(share.weight for share in cohort.shares) - 1) <= ROUNDING:
            raise LedgerError("the weights in its cohort do not add up to 1")
        if agreed.weights == "uniform" and len({share.weight for share in cohort.shares}) > 1:
            raise LedgerError("the weights in its cohort are not all alike, as its job's are")

    def _check_outcome(self, record: RoundRecord) -> None:
        for name, value in record.metrics.items():
            metric = self._metrics.get(name)
            if metric is None:
                raise LedgerError("it releases a metric that the charter does not name")
            if not metric.low <= value <= metric.high:
                raise LedgerError(f"its metric {shown(name)} is outside the charter's range")

    def _check_commits(self, record: RoundRecord) -> None:
        if len(record.commits) < quorum(self.charter):
            raise LedgerError(
                f"{len(record.commits)} of {len(self._owners)} owners have committed it, and {quorum(self.charter)}"
                " have to"
            )
        outcome = outcome_digest(record.salt, model=record.model, state=record.state, metrics=record.metrics)
        self._check_signatures(record.commits, message=commit_to_be_signed(record.cohort, outcome), what="commits")

    def _check_signatures(self, signatures: Sequence[MemberSignature], *, message: bytes, what: str) -> None:
        self._check_owners([each.member for each in signatures], what=f"its list of {what}")
        for each in signatures:
            if fingerprint(each.public_key) != each.member:
                raise LedgerError(f"the signature of {self._owners[each.member]} comes with another's public key")
            try:
                keys.verify(each.signature, message=message, public_key=each.public_key)
            except CharterError:
                raise LedgerError(
                    f"the signature of {self._owners[each.member]} in its list of {what} is not one of what it releases"
                ) from None

    def _check_owners(self, members: Sequence[str], *, what: str) -> None:
        if any(member not in self._owners for member in members):
            raise LedgerError(f"{what} names a key that is no owner's of the charter")
        if list(members) != sorted(set(members)):
            raise LedgerError(f"{what} names a member twice, or is out of order")


def _check_signed(record: Record, *, signer: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(record.signature, to_be_signed(record))
    except (InvalidSignature, ValueError):
        raise LedgerError("the newest instance has not signed it: the record was changed, or another made it") from None
