"""The records of a ledger: the proof of each instance when it began, and the release of each round.

A record's hash, SHA-256 of its bytes, is the head of the ledger that ends with it, and every record holds the head
before it. A round is signed three times. Its members consent to the ``Cohort``: who is in the aggregate, with which
weights. Owners, members or not, commit the cohort and a salted commitment to the outcome, before anybody outside knows
it. The instance signs the whole record.
"""

from __future__ import annotations

import hashlib
from collections import abc
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from cloister.errors import LedgerError
from cloister.wire.fields import Digest, Fingerprint, Message, Name
from cloister.wire.limits import (
    EVIDENCE_BYTES,
    MEMBERS,
    RECORD_BYTES,
    ROUND_BODY_BYTES,
    SIGNATURE_BYTES,
    TRANSCRIPT_BYTES,
)
from cloister.wire.rounds import Head, MemberSignature, Metrics, RoundNumber, Sequence

CONSENT: Final = b"cloister consent signature 1\0"
"""Before SHA-256 of the encoded cohort in what its members sign."""
COMMIT: Final = b"cloister commit signature 1\0"
"""Before SHA-256 of the encoded cohort, and the outcome's digest, in what a quorum of owners signs."""
RECORD: Final = b"cloister record signature 1\0"
"""Before SHA-256 of the record, its signature left empty, in what the instance signs."""
OUTCOME: Final = b"cloister outcome 1\0"
STATE: Final = b"cloister rule state 1\0"

COLLATERAL_BYTES: Final = 1 << 18
AVERAGES: Final = 2
"""The most vectors that a strategy's state may have."""

Signed = Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]
MemberSignatures = Annotated[tuple[MemberSignature, ...], Meta(max_length=MEMBERS)]
"""In the order of the members' fingerprints."""
Milliseconds = Annotated[int, Meta(ge=0, lt=1 << 53)]


class Noised(Message, frozen=True):
    """The noise of a round: whose part in it is hidden, the standard deviation as a multiple of the most that one part
    can be, with which probability a record is drawn, and the most that one part can be."""

    unit: Literal["record", "owner"]
    multiplier: float
    rate: float
    clip: float


class Share(Message, frozen=True):
    """One member of a cohort: its weight in the mean, and the commitment to its contribution."""

    member: Fingerprint
    weight: float
    commitment: Digest


class Cohort(Message, frozen=True):
    """What members consent to before they contribute: who is in the aggregate, of which round, with which weights."""

    format: Literal["cloister cohort 4"]
    charter: Digest
    sequence: Sequence
    """The number of the record that this becomes, from 1."""
    previous: Head
    """The head of the ledger before it."""
    signer: Digest
    """The instance's signing key, Ed25519."""
    round: RoundNumber
    job: Digest
    name: Name
    """The job's in the charter, which has all its numbers."""
    digest: Digest
    """The round's (``cloister.ledger.job.round_digest``)."""
    model: Digest
    """The model that the round started from."""
    shares: Annotated[tuple[Share, ...], Meta(max_length=MEMBERS)]
    """In the order of the members' fingerprints."""
    noise: Noised | None
    """What is added to their mean, once for all of them; None where nothing is."""


class RoundRecord(Message, tag="round", frozen=True):
    """A receipt: one round and what it released."""

    cohort: Annotated[bytes, Meta(max_length=ROUND_BODY_BYTES)]
    salt: Digest
    model: Digest
    """The new model (``cloister.ledger.job.model_digest``)."""
    state: Digest | None
    """``state_digest`` of the strategy's state; None where it has none."""
    metrics: Metrics
    consents: MemberSignatures
    """Of all members of the cohort."""
    commits: MemberSignatures
    """Of a quorum of owners."""
    time: Milliseconds
    """Since 1970-01-01 UTC, by the instance's clock, which nobody trusts."""
    signature: Signed


class InstanceRecord(Message, tag="instance", frozen=True):
    """The first record of each instance: its proof, whose nonce is the head before it."""

    charter: Digest
    sequence: Sequence
    previous: Head
    transcript: Annotated[bytes, Meta(max_length=TRANSCRIPT_BYTES)]
    evidence: Annotated[bytes, Meta(max_length=EVIDENCE_BYTES)]
    collateral: Annotated[bytes, Meta(max_length=COLLATERAL_BYTES)] | None
    time: Milliseconds
    signature: Signed


Record: TypeAlias = InstanceRecord | RoundRecord

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_records: Final = msgspec.msgpack.Decoder(InstanceRecord | RoundRecord)
_cohorts: Final = msgspec.msgpack.Decoder(Cohort)


def encode(value: Struct) -> bytes:
    """The encoding of a record or a cohort; there is one."""
    return _encoder.encode(value)


def decode(data: bytes) -> Record:
    """Decodes a record. Nothing of its content is checked yet.

    Raises:
        LedgerError: they spell none, or not in its one spelling.
    """
    if len(data) > RECORD_BYTES:
        raise LedgerError(f"a record of {len(data)} bytes is over the limit of {RECORD_BYTES}")
    try:
        record: Record = _records.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise LedgerError("the bytes are no record of this version") from None
    if encode(record) != bytes(data):
        raise LedgerError("a record that is not in its one spelling")
    return record


def decode_cohort(data: bytes) -> Cohort:
    """Decodes a cohort. Nothing of its content is checked yet.

    Raises:
        LedgerError: they spell none, or not in its one spelling.
    """
    try:
        cohort = _cohorts.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise LedgerError("the bytes are no cohort of this version") from None
    if encode(cohort) != bytes(data):
        raise LedgerError("a cohort that is not in its one spelling")
    return cohort


def head_of(record: bytes) -> bytes:
    """The head of the ledger that ends with this encoded record, 32 bytes."""
    return hashlib.sha256(record).digest()


def nonce_of(head: bytes) -> bytes:
    """The nonce of an instance's first proof: the head before it, 32 bytes; zeros before the first record."""
    return head.rjust(32, b"\0")


def to_be_signed(record: Record) -> bytes:
    """The bytes that the instance signs for a record."""
    return RECORD + hashlib.sha256(encode(msgspec.structs.replace(record, signature=b""))).digest()


def cohort_digest(cohort: bytes) -> bytes:
    """SHA-256 of an encoded cohort, which names it."""
    return hashlib.sha256(cohort).digest()


def consent_to_be_signed(cohort: bytes) -> bytes:
    """The bytes that members sign for an encoded cohort."""
    return CONSENT + cohort_digest(cohort)


def commit_to_be_signed(cohort: bytes, outcome: bytes) -> bytes:
    """The bytes that owners sign for an encoded cohort and the digest of its outcome."""
    return COMMIT + cohort_digest(cohort) + outcome


def commitment(salt: bytes, contribution: memoryview) -> bytes:
    """SHA-256 of the salt (32 bytes) and a contribution's bytes."""
    found = hashlib.sha256(salt)
    found.update(contribution)
    return found.digest()


def outcome_digest(salt: bytes, *, model: bytes, state: bytes | None, metrics: dict[str, float]) -> bytes:
    """The commitment to a round's release, 32 bytes; the salt keeps anybody from guessing it before."""
    return hashlib.sha256(OUTCOME + salt + _encoder.encode([model, state, metrics])).digest()


def state_digest(rounds: int, averages: abc.Sequence[bytes | bytearray | memoryview]) -> bytes | None:
    """The digest of a strategy's state after so many rounds, 32 bytes; None where it keeps no averages.

    ``averages``: the bytes of its vectors of float64, momentum first.
    """
    if not averages:
        return None
    found = hashlib.sha256(STATE + rounds.to_bytes(8, "big"))
    for average in averages:
        found.update(b"\1")
        found.update(average)
    found.update(b"\0" * (AVERAGES - len(averages)))
    return found.digest()
