"""The side that proves what it runs: an instance's keys, and its answers to challenges (docs/attestation.md).

An instance is one run of the software. Its keys are made when it starts, live in its memory, and die with it, so a
restart is another instance and is verified anew.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.attest import evidence
from cloister.attest.attester import Attester
from cloister.attest.transcript import INSTANCE_BYTES, Role, Transcript
from cloister.errors import MessageError, NoTeeError, WireError
from cloister.net.certificates import new_instance_key, spki_hash
from cloister.net.connection import Connection, Frame
from cloister.net.handshake_server import hello_in, refuse, refuse_for
from cloister.net.tls import instance_context
from cloister.wire.frames import VERSION, Kind
from cloister.wire.messages import Challenge, Hello, Proof

_OPENINGS: Final = 72
"""Challenges and secrets that may come before a hello: all that a node can keep, and some to spare."""

_OPENING_S: Final = 60.0
"""How long they may take in all: whoever only asks holds a place that others wait for."""


class Instance:
    """One run of attested software: its keys, made here and now, and who asks the TEE for evidence.

    Args:
        role: what it is for those who dial it. name: the address that they dial, as the charter has it.
        charter: the charter's digest. configuration: SHA-256 of a node's own configuration; None for an aggregator.
        hpke_key: what secrets are sealed to for it (``secrets.ProvisionedInstance``); None where none are, as for an
            aggregator.
    """

    def __init__(
        self,
        *,
        role: Role,
        attester: Attester,
        charter: bytes,
        name: str,
        configuration: bytes | None = None,
        hpke_key: bytes | None = None,
        now: datetime | None = None,
    ) -> None:
        self.role: Final = role
        self.tee: Final = attester.tee
        self.charter: Final = charter
        self.name: Final = name
        self._configuration = configuration
        self._hpke_key = hpke_key
        self._attester = attester
        self._ledger: Callable[[], tuple[bytes, int]] = lambda: (b"", 0)
        self._id = secrets.token_bytes(INSTANCE_BYTES)
        self._signing_key = Ed25519PrivateKey.generate()
        key, certificate, self.fingerprint = new_instance_key(now=now)
        self.context: Final[ssl.SSLContext] = instance_context(key, certificate)

    def follow(self, ledger: Callable[[], tuple[bytes, int]]) -> None:
        """From now on its proofs tell what ``ledger`` does: the newest record's hash, and the number of records."""
        self._ledger = ledger

    @property
    def signing_key(self) -> bytes:
        """The public one, Ed25519, 32 bytes."""
        return self._signing_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """Signs with the key that its proofs name; every kind of message begins with a label of its own."""
        return self._signing_key.sign(message)

    def transcript(self, nonce: bytes, *, client: bytes | None) -> Transcript:
        """What this instance proves to whoever sent ``nonce`` and shows the key with the hash ``client``."""
        head, sequence = self._ledger()
        return Transcript(
            role=self.role,
            tee=self.tee,
            nonce=nonce,
            hpke_key=self._hpke_key,
            signing_key=self.signing_key,
            charter=self.charter,
            instance=self._id,
            name=self.name,
            server=spki_hash(self.fingerprint) or b"",
            client=client,
            ledger_head=head,
            ledger_sequence=sequence,
            configuration=self._configuration,
        )

    def prove(self, transcript: Transcript) -> Proof:
        """Fresh evidence about ``transcript``.

        Raises:
            NoTeeError: the TEE gives none.
        """
        found = self._attester.evidence(transcript.report_data())
        return Proof(transcript=transcript.encode(), evidence=evidence.encode(found))


class Prover:
    """Answers one connection's challenges."""

    def __init__(self, connection: Connection, instance: Instance) -> None:
        self._connection = connection
        self._instance = instance
        self._report_data: bytes | None = None  # of the newest proof: what is sealed is bound to it

    def open(self, *, hello_s: float = 10.0) -> Hello | None:
        """Serves challenges until the peer says hello; None once it was refused something for good.

        Raises:
            NoAnswerError: nothing more came within ``hello_s`` seconds, or a minute is over.
            WireError: not what may come here; the peer has been told, and the connection is closed.
            ConnectionLostError: the connection ended.
        """
        until = monotonic() + _OPENING_S
        for _ in range(_OPENINGS):
            try:
                frame = self._connection.receive(wait_s=min(hello_s, max(until - monotonic(), 0.0)))
                if frame.kind is Kind.HELLO:
                    return hello_in(frame, self._connection)
                if not self.serve(frame):
                    return None
            except WireError as fault:
                refuse_for(self._connection, fault)
                raise
        refuse(self._connection, "protocol", text="a conversation goes on with a hello, not with ever more challenges")
        return None

    def serve(self, frame: Frame) -> bool:
        """Answers one challenge; False when the conversation is over.

        Raises:
            MessageError: the frame is none. ConnectionLostError: the connection ended.
        """
        if frame.kind is not Kind.CHALLENGE or frame.body_bytes:
            raise MessageError(f"{frame.kind.name} has no place here")
        return self._answer(frame.message())

    def _answer(self, challenge: Challenge) -> bool:
        if VERSION not in challenge.versions:
            refuse(self._connection, "version", text=f"this end speaks version {VERSION} of the protocol")
            return False
        if challenge.charter != self._instance.charter:
            own = self._instance.charter.hex()
            refuse(self._connection, "charter", text=f"this {self._instance.role} runs under another charter: {own}")
            return False
        transcript = self._instance.transcript(challenge.nonce, client=spki_hash(self._connection.peer))
        try:
            proof = self._instance.prove(transcript)
        except NoTeeError as fault:
            refuse(self._connection, "evidence", text=str(fault))
            return False
        self._connection.send(Kind.PROOF, proof)
        self._report_data = transcript.report_data()
        return True
