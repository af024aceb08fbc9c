"""The side that verifies: dial an instance, have it prove what it runs, and only then speak (docs/attestation.md).

Towards an instance TLS is transport. The client sends a nonce, the protocol's version and the charter's digest, and
nothing else before the verdict. What comes back must be about this connection: its nonce, its two TLS keys, the address
that was dialled, the charter; and it must be evidence that the reference accepts.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from cloister.attest import received
from cloister.attest.claims import Claims
from cloister.attest.evidence import Evidence
from cloister.attest.hpke import seal
from cloister.attest.reference import Entry
from cloister.attest.transcript import NONCE_BYTES, Transcript
from cloister.attest.verdict import Verdict
from cloister.attest.verifier import Verified, verify
from cloister.charter.summary import rules
from cloister.errors import CollateralError, MessageError, UnacceptableError, UnreachableError, WorkerError
from cloister.net.certificates import spki_hash
from cloister.net.connection import Connection, Frame
from cloister.net.contexts import unverified_client_context
from cloister.net.dial import handshake, reach
from cloister.net.handshake_client import refusal_error
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.net.secrets import provision_info
from cloister.net.tls import wrap
from cloister.wire.frames import VERSION, Kind
from cloister.wire.messages import Challenge, Proof, Provision
from cloister.wire.peers import parse_address
from cloister.wire.sessions import VOCABULARY, Failure


@dataclass(frozen=True, kw_only=True)
class AttestedConnection:
    """An instance that has proved itself, and the connection on which it did. Ready for a hello, or a secret."""

    policy: AttestationPolicy
    name: str
    connection: Connection
    client: bytes | None
    transcript: Transcript
    evidence: Evidence
    claims: Claims
    entry: Entry
    attested_at: datetime
    """By the verifier's clock."""
    took: timedelta
    """From the nonce's making to the proof's judgement: the evidence is no older."""

    @property
    def verdict(self) -> Verdict:
        """What was judged, for a person, a log or a machine."""
        return Verdict.accepted(
            self.claims,
            entry=self.entry,
            checked_at=self.attested_at,
            rules=rules(self.policy.charter),
            transcript=self.transcript,
            address=self.name,
            took=self.took,
        )

    def attest(self, *, wait_s: float = 10.0) -> AttestedConnection:
        """Has the instance prove itself anew on the same connection: in each round, and after a long silence.

        Raises:
            UnacceptableError: it proves something else now.
            CloisterError: whatever else ``attest_peer`` raises once there is a connection, which is closed then.
        """
        try:
            asked = self.challenge()
            return asked.judge(self.connection.receive(wait_s=wait_s))
        except BaseException:
            self.close()
            raise

    def challenge(self, *, newest: tuple[int, bytes] = (0, b"")) -> Challenged:
        """Asks it to prove itself anew, where the answer may come among other frames.

        ``newest``: the ledger sequence and head that its ledger must go on from, if that is later than all it proved.

        Raises:
            ConnectionLostError: the connection ended.
        """
        seen = (self.transcript.ledger_sequence, self.transcript.ledger_head)
        policy = replace(self.policy, newest=max(self.policy.newest, seen, newest))
        return Challenged(_challenge(self.connection, policy, name=self.name, client=self.client), self.transcript)

    def provision(self, name: str, secret: bytes, *, wait_s: float = 10.0) -> None:
        """Gives the instance a secret, sealed to the key that it proved here; nobody between here and it can read it.

        Raises:
            UnacceptableError: it has no key for secrets, as no aggregator has.
            WorkerError: it does not keep it; the message says why. LimitError: the name or the secret is too long.
            NetworkError: the connection failed.
        """
        if self.transcript.hpke_key is None:
            raise UnacceptableError(
                ["it has no key that a secret could be sealed to: give secrets to a node"], genuine=False
            )
        info = provision_info(self.transcript.report_data(), name)
        sealed = seal(secret, public_key=self.transcript.hpke_key, info=info)
        self.connection.send(Kind.PROVISION, Provision(name=name, sealed=sealed))
        frame = self.connection.receive(wait_s=wait_s)
        match frame.kind, frame.message(VOCABULARY):
            case Kind.ANSWER, _:
                return
            case Kind.FAILURE, Failure(code=code, text=text):
                raise WorkerError.from_code(code)(text)
            case Kind.REFUSAL, refusal:
                raise refusal_error(refusal)
        raise MessageError(f"a secret was answered by {frame.kind.name}")

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()

    def __enter__(self) -> AttestedConnection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Challenged:
    """A challenge that is to be answered by an instance that proved itself on the connection before."""

    asked: _Asked
    before: Transcript

    def judge(self, frame: Frame) -> AttestedConnection:
        """What the frame that answers it proves.

        Raises:
            UnacceptableError: it is another instance, or proves something else now.
            CloisterError: whatever else ``attest_peer`` raises once there is a connection.
        """
        attested = self.asked.judge(frame)
        old, new = self.before, attested.transcript
        if replace(old, nonce=new.nonce, ledger_head=new.ledger_head, ledger_sequence=new.ledger_sequence) != new:
            raise UnacceptableError(["it is not the instance that proved itself on this connection before"])
        return attested


def attest_peer(
    address: str,
    *,
    policy: AttestationPolicy,
    identity: Identity | str | os.PathLike[str] | None = None,
    at: str | None = None,
    within_s: float = 10.0,
    send_s: float = 30.0,
) -> AttestedConnection:
    """Dials an instance and has it prove itself, before anything but the challenge is sent.

    Args:
        address: ``host:port`` as the charter has it; the instance must say that this is its name.
        identity: whose certificate to show; None: none, which is enough to verify.
        at: where to dial, if the way there is another (a tunnel, a relay). The name stays what it must be.
        within_s: the time for reaching it, in seconds, and again for its proof.

    Raises:
        ConfigurationError: an address or identity that cannot be used.
        NetworkError: it cannot be reached, or stops answering. WireError: it does not speak the protocol.
        EvidenceError, NotGenuineError, CollateralError, UnacceptableError: as ``cloister.attest.verifier.verify``;
            also UnacceptableError where the proof is about another connection, address, charter or role.
        CharterError: it runs under another charter. NoTeeError: its TEE gives no evidence.
    """
    own = identity if isinstance(identity, Identity) or identity is None else Identity.load(identity)
    target = parse_address(at or address)
    deadline = monotonic() + within_s
    secured = wrap(reach(target, within_s=within_s), context=unverified_client_context(own), server_side=False)
    try:
        server = handshake(secured, within_s=max(deadline - monotonic(), 0.001))
    except UnreachableError as fault:
        raise UnreachableError(f"{target} cannot be talked to: {fault}") from fault
    connection = Connection(
        secured,
        peer=server,
        send_s=send_s,
        refused=f"{target} closed the connection right after the handshake: it may refuse this certificate, or be busy",
    )
    client = None if own is None else spki_hash(own.fingerprint)
    try:
        asked = _challenge(connection, policy, name=address, client=client)
        return asked.judge(connection.receive(wait_s=within_s))
    except BaseException:
        connection.close()
        raise


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A challenge that is out: what its answer has to be about."""

    connection: Connection
    policy: AttestationPolicy
    name: str
    client: bytes | None
    nonce: bytes
    at: float

    def judge(self, frame: Frame) -> AttestedConnection:
        policy = self.policy
        proof = _proof(frame)
        transcript = Transcript.decode(proof.transcript)
        evidence = received.decode(proof.evidence)
        server = spki_hash(self.connection.peer)
        now = policy.clock()
        mismatches = _mismatches(
            transcript, evidence, policy, name=self.name, nonce=self.nonce, server=server, client=self.client
        )
        unmet = _unmet(transcript, evidence, policy, name=self.name, now=now)
        if mismatches:
            # Nothing is fetched for it: whoever sent it would choose what a service is asked.
            raise UnacceptableError([*mismatches, *unmet], genuine=False)
        verified = _judge(transcript, evidence, policy, unmet=unmet, now=now)
        return AttestedConnection(
            policy=policy,
            name=self.name,
            connection=self.connection,
            client=self.client,
            transcript=transcript,
            evidence=evidence,
            claims=verified.claims,
            entry=verified.entry,
            attested_at=now,
            took=timedelta(seconds=monotonic() - self.at),
        )


def _challenge(connection: Connection, policy: AttestationPolicy, *, name: str, client: bytes | None) -> _Asked:
    at = monotonic()
    nonce = secrets.token_bytes(NONCE_BYTES)
    connection.send(Kind.CHALLENGE, Challenge(versions=(VERSION,), nonce=nonce, charter=policy.charter.digest))
    return _Asked(connection=connection, policy=policy, name=name, client=client, nonce=nonce, at=at)


def _proof(frame: Frame) -> Proof:
    if frame.kind is Kind.REFUSAL:
        raise refusal_error(frame.message())
    if frame.kind is not Kind.PROOF or frame.body_bytes:
        raise MessageError(f"a challenge was answered by {frame.kind.name}")
    proof: Proof = frame.message()
    return proof


def _judge(
    transcript: Transcript, evidence: Evidence, policy: AttestationPolicy, *, unmet: list[str], now: datetime
) -> Verified:
    """The verdict on evidence whose transcript is about this connection; ``unmet`` is known of it already."""
    try:
        verified = verify(
            evidence,
            reference=policy.charter.reference if policy.reference is None else policy.reference,
            collateral=policy.collateral(evidence, now),
            now=now,
            report_data=transcript.report_data(),
            unsafe_roots=policy.unsafe_roots,
        )
    except UnacceptableError as fault:
        raise UnacceptableError([*unmet, *fault.failures], genuine=fault.genuine) from None
    except CollateralError as fault:
        if not unmet:
            raise
        raise UnacceptableError([*unmet, f"and its evidence could not be judged: {fault}"], genuine=False) from None
    if unmet:
        raise UnacceptableError(unmet)
    return verified


_MISMATCHES: Final = {
    "nonce": "its proof answers another challenge than ours: old evidence, played again",
    "role": "it says that it is a {found}, and a {wanted} was dialled",
    "charter": "it is bound to another charter",
    "name": "it is another instance than the one that was dialled: it listens as {found}, not as {wanted}",
    "server": "its proof is about another TLS key than this connection's: somebody stands in between",
    "client": "its proof is about another client's connection: somebody stands in between",
    "configuration": "it runs with another configuration than the one that is demanded",
}


def _mismatches(
    transcript: Transcript,
    evidence: Evidence,
    policy: AttestationPolicy,
    *,
    name: str,
    nonce: bytes,
    server: bytes | None,
    client: bytes | None,
) -> list[str]:
    """The parts of a transcript that are about another connection, charter or role than what was dialled."""
    wanted = {
        "nonce": nonce,
        "role": policy.role,
        "charter": policy.charter.digest,
        "name": name,
        "server": server,
        "client": client,
        "configuration": policy.configuration,
    }
    found = {field: getattr(transcript, field) for field in wanted}
    failures = [
        _MISMATCHES[field].format(found=repr(found[field]), wanted=repr(value))
        for field, value in wanted.items()
        if found[field] != value
    ]
    if transcript.tee != evidence.tee:
        failures.append("its proof calls one kind of TEE what the evidence calls another")
    return failures


def _unmet(
    transcript: Transcript, evidence: Evidence, policy: AttestationPolicy, *, name: str, now: datetime
) -> list[str]:
    """The demands of a policy that a proof does not meet, though it may be about this very connection."""
    failures = []
    if policy.role == "aggregator" and name not in policy.charter.addresses:
        failures.append(f"the charter names no aggregator at {name}")
    if evidence.tee == "simulated" and not policy.accept_simulated:
        failures.append(
            "a simulated TEE proves nothing, and is not accepted here unless that is asked for (accept_simulated=True,"
            " --accept-simulated, or accept_simulated = true beside the charter in node.toml)"
        )
    if not policy.charter.not_before <= now <= policy.charter.not_after:
        failures.append("the charter is not valid at this time")
    sequence, head = policy.newest
    found_sequence, found_head = transcript.ledger_sequence, transcript.ledger_head
    if found_sequence < sequence or (found_sequence == sequence and found_head != head):
        failures.append("its ledger does not go on from the newest record that was seen: it was rolled back or forked")
    return failures
