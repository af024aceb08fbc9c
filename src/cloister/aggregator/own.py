"""An instance's identity, and the record that it begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.records import InstanceRecord
from cloister.wire.messages import Proof

UPLOAD_S: Final = 10.0
PACE: Final = 1 << 20
"""The bytes that arrive in a second, at least."""


class InstanceIdentity(NamedTuple):
    """An instance's keys, evidence, clock and salt: what it can do and nobody else can.

    ``signer``: its public signing key, Ed25519, 32 bytes; ``sign`` signs with it. ``prove``: fresh evidence for a
    nonce, of a transcript that tells the ledger's head and sequence. ``salt``: 32 random bytes. ``random(n)``: n random
    bytes, for noise. ``time``: milliseconds since 1970-01-01 UTC. ``collateral``: encoded, for the instance's record,
    so that auditors need no other source. ``upload_s``: the time that any upload may take, beside 1 s for each MiB of
    it that has arrived.
    """

    signer: bytes
    sign: Callable[[bytes], bytes]
    prove: Callable[[bytes], Proof]
    salt: Callable[[], bytes]
    random: Callable[[int], bytes]
    time: Callable[[], int]
    collateral: bytes | None = None
    upload_s: float = UPLOAD_S


def seconds_for(nbytes: int, *, least: float = 0.0) -> float:
    """The time that so many bytes may take to arrive: ``least``, and 1 s for each MiB.

    ``nbytes``: what has arrived, not what was claimed.
    """
    return least + nbytes / PACE


def begin(ledger: Ledger, *, own: InstanceIdentity) -> bytes:
    """Makes the instance's record, the next one of this ledger."""
    proof = own.prove(records.nonce_of(ledger.head))
    record = InstanceRecord(
        charter=ledger.charter.digest,
        sequence=ledger.sequence + 1,
        previous=ledger.head,
        transcript=proof.transcript,
        evidence=proof.evidence,
        collateral=own.collateral,
        time=own.time(),
        signature=b"",
    )
    return records.encode(msgspec.structs.replace(record, signature=own.sign(records.to_be_signed(record))))
