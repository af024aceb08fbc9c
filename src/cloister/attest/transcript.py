"""The transcript T: everything that evidence has to be about, so that it fits one connection and no other.

T is the deterministic CBOR (RFC 8949, section 4.2.1) of the array below, and the evidence's 64 bytes of ``report_data``
are SHA-512(T). docs/attestation.md has test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import cbor2

from cloister.attest import cbor
from cloister.attest.evidence import TEES, Tee
from cloister.errors import EvidenceError
from cloister.wire.limits import TRANSCRIPT_BYTES

PROTOCOL: Final = "cloister/1"
NONCE_BYTES: Final = 32
INSTANCE_BYTES: Final = 16
HPKE_KEY_BYTES: Final = 1216
"""ML-KEM-768's encapsulation key (1184 bytes, FIPS 203), then X25519's public key (32 bytes, RFC 7748)."""
SIGNING_KEY_BYTES: Final = 32

Role = Literal["aggregator", "node"]

_LENGTHS: Final[Mapping[str, tuple[int | None, ...]]] = {
    "nonce": (NONCE_BYTES,),
    "hpke_key": (HPKE_KEY_BYTES, None),
    "signing_key": (SIGNING_KEY_BYTES,),
    "charter": (32,),
    "instance": (INSTANCE_BYTES,),
    "server": (32,),
    "client": (32, None),
    "ledger_head": (0, 32),
    "configuration": (32, None),
}
"""For each field of bytes how many it may have; None where it may be null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What one end proves about itself to the other, on one connection.

    Raises:
        EvidenceError: a field is not what it must be.
    """

    role: Role
    """Of the sender. A member takes evidence from the role that it dialled only."""
    tee: Tee
    nonce: bytes
    """The verifier's, 32 bytes: old evidence has another."""
    hpke_key: bytes | None
    """What is sealed for this instance is sealed to this key: ML-KEM-768 and X25519, concatenated. Null where
    nothing is, as for an aggregator."""
    signing_key: bytes
    """Ed25519; signs the ledger."""
    charter: bytes
    """The charter's digest, 32 bytes."""
    instance: bytes
    """16 random bytes of this run of the software: a restart is another instance."""
    name: str
    """The address that it is reached at, as members dial it."""
    server: bytes
    """SHA-256 of the sender's own TLS SubjectPublicKeyInfo."""
    client: bytes | None
    """SHA-256 of the verifier's, or null if it showed no certificate."""
    ledger_head: bytes
    """The newest record's hash, 32 bytes; empty before the first."""
    ledger_sequence: int
    """How many records there are."""
    configuration: bytes | None
    """SHA-256 of a node's own configuration; null for an aggregator, which has none but the charter."""

    def __post_init__(self) -> None:
        for field, allowed in _LENGTHS.items():
            value = getattr(self, field)
            if (None if value is None else len(value) if type(value) is bytes else -1) not in allowed:
                raise EvidenceError(f"a transcript's {field} is not as long as it must be")
        if self.role not in get_args(Role) or self.tee not in TEES:
            raise EvidenceError("a transcript of an unknown role or kind of TEE")
        if type(self.name) is not str or not 1 <= len(self.name) <= 256 or not self.name.isprintable():
            raise EvidenceError("a transcript's name is not an address")
        if type(self.ledger_sequence) is not int or not 0 <= self.ledger_sequence < 1 << 63:
            raise EvidenceError("a transcript's ledger sequence is no number")
        if bool(self.ledger_head) != bool(self.ledger_sequence):
            raise EvidenceError("a transcript's ledger has a head without records, or records without a head")

    def encode(self) -> bytes:
        """T, as deterministic CBOR."""
        return cbor2.dumps([PROTOCOL, *(getattr(self, each) for each in self.__slots__)], canonical=True)

    @classmethod
    def decode(cls, data: bytes) -> Transcript:
        """A transcript that travelled.

        Raises:
            EvidenceError: it is none, or not in its one deterministic form.
        """
        if len(data) > TRANSCRIPT_BYTES:
            raise EvidenceError(f"a transcript of {len(data)} bytes is over the limit of {TRANSCRIPT_BYTES}")
        fields = cls.__slots__
        items = cbor.decode(data, what="what came as a transcript")
        if type(items) is not list or len(items) != 1 + len(fields) or items[0] != PROTOCOL:
            raise EvidenceError(f"what came is no transcript of {PROTOCOL}")
        try:
            transcript = cls(**dict(zip(fields, items[1:], strict=True)))
        except TypeError:  # a value that cannot be hashed or compared where a text belongs
            raise EvidenceError("a transcript with a value of a wrong type") from None
        if transcript.encode() != data:
            raise EvidenceError("a transcript that is not in deterministic CBOR")
        return transcript

    def report_data(self) -> bytes:
        """SHA-512(T): what the evidence has to be made for, 64 bytes."""
        return hashlib.sha512(self.encode()).digest()
