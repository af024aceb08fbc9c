"""Attested instances for tests: a study with a charter, its aggregator in a thread, and those who stand in its place.

The software of the study's charter is a simulated TEE's with a measurement of the tests' own, so that an attacker here
has what it has on real hardware (genuine evidence of the very same software) and, where a test says so, more than that.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from cloister.attest import received
from cloister.attest.attester import Attester
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.evidence import Evidence
from cloister.attest.transcript import Transcript
from cloister.attest.verifier import Verified, verify
from cloister.charter import Charter
from cloister.enclave.server import Aggregator
from cloister.errors import AttestationError
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.certificates import new_instance_key, spki_hash
from cloister.net.connection import Connection, Frame
from cloister.net.contexts import unverified_client_context
from cloister.net.dial import handshake, reach
from cloister.net.identity import Identity
from cloister.net.listener import Listener
from cloister.net.policy import AttestationPolicy
from cloister.net.proving import Instance
from cloister.net.secrets import ProvisionedInstance
from cloister.net.tls import instance_context, wrap
from cloister.node import config
from cloister.node.server import Node
from cloister.testing.charters import sign_charter, write_charter
from cloister.wire.frames import VERSION, Kind, pack_prefix
from cloister.wire.messages import Challenge, Proof, Refusal, encode
from cloister.wire.peers import Address, parse_address
from tests.support.processes import wait_until
from tests.support.tls import SOON

ADDRESS = "aggregator.example:7443"
MEASUREMENT = b"\x3f" * 48
ATTESTER = SimulatedAttester(measurement=MEASUREMENT, platform=b"\x77" * 32)
NONCE = bytes(range(32))


class Claiming(Instance):
    """A run of the study's software that tells of the ``ledger`` that a test says, if it says one."""

    def __init__(self, *, ledger: Callable[[], tuple[bytes, int]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._said = ledger
        if ledger is not None:
            super().follow(ledger)

    def follow(self, ledger: Callable[[], tuple[bytes, int]]) -> None:
        if self._said is None:
            super().follow(ledger)


class Provisioned(Claiming, ProvisionedInstance):
    """One of them that takes secrets."""


class Study:
    """Two owners, a researcher, a stranger, and the charter of the first three."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alice, self.bob, self.carol, self.dave = (
            Identity.create(folder / f"{name}.key") for name in ("alice", "bob", "carol", "dave")
        )
        self.charter = self.agree()

    def agree(self, **options: Any) -> Charter:
        """A charter of theirs; ``options`` as for ``write_charter``."""
        members = {
            "alice": ("owner", self.alice),
            "bob": ("owner", self.bob),
            "carol": ("researcher", self.carol),
        }
        options = {"addresses": [ADDRESS], "measurements": [MEASUREMENT], **options}
        charter = write_charter(self.folder / "charter.toml", members=members, **options)
        sign_charter(charter, self.folder / "charter.sigs", signers={"alice": self.alice, "bob": self.bob})
        return charter

    @property
    def known(self) -> frozenset[str]:
        """The members' keys."""
        return frozenset(member.key for member in self.charter.members)

    def policy(self, **options: Any) -> AttestationPolicy:
        """What the study's members demand of their aggregator; by default that it is as the charter has it."""
        return AttestationPolicy(**{"charter": self.charter, "accept_simulated": True, **options})

    def instance(self, **options: Any) -> Claiming:
        """A run of the study's software."""
        return Claiming(**self._options(options))

    def provisioned(self, **options: Any) -> Provisioned:
        """A run of the study's software with a key to seal secrets to."""
        return Provisioned(**self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = {"role": "aggregator", "charter": self.charter.digest, "name": ADDRESS, "attester": ATTESTER}
        return {**own, **options}

    @contextmanager
    def aggregator(self, instance: Instance | None = None, *, port: int = 0) -> Iterator[Running]:
        """The study's aggregator, in a thread."""
        own = instance or self.instance()
        with serving(Aggregator(own, charter=self.charter, listen=Address("127.0.0.1", port))) as at:
            yield Running(own, at)

    @contextmanager
    def secure_worker(self, instance: Instance | None = None) -> Iterator[Running]:
        """The aggregator of an interactive charter, in a thread: a node that proves itself. No session is opened at it
        here, so it starts no executor."""
        own = instance or self.instance()
        lines = ['name = "aggregator"', 'listen = "127.0.0.1:0"', "[session]", "spare_executors = 0"]
        lines += ["[tee]", 'kind = "simulated"', f'address = "{ADDRESS}"']
        for table, members in (("researchers", self.charter.researchers), ("workers", self.charter.owners)):
            for member in members:
                lines += [f"[[{table}]]", f'name = "{member.name}"', f'fingerprint = "{member.key}"']
        configuration = config.parse("\n".join(lines), folder=self.folder)
        with serving(Node(configuration, instance=own)) as at:
            yield Running(own, at)

    def attest(
        self, at: str, *, name: str = ADDRESS, identity: Identity | None = None, **options: Any
    ) -> AttestedConnection:
        """As the study's member bob, or another: verifies what listens at ``at``."""
        within_s = options.pop("within_s", SOON)
        return attest_peer(name, policy=self.policy(**options), identity=identity or self.bob, at=at, within_s=within_s)

    def convinced_by(self, proof: Proof) -> Verified:
        """What a verifier would find who holds evidence against the reference and looks at nothing else."""
        return verify(
            received.decode(proof.evidence),
            reference=self.charter.reference,
            collateral=None,
            now=datetime.now(UTC),
            report_data=Transcript.decode(proof.transcript).report_data(),
        )


class Running:
    """An instance, and where it listens."""

    def __init__(self, instance: Instance, at: str) -> None:
        self.instance = instance
        self.at = at

    @property
    def port(self) -> int:
        return parse_address(self.at).port


class Service(Protocol):
    """What runs in a thread of a test."""

    @property
    def address(self) -> Address: ...
    def serve(self) -> None: ...
    def stop(self) -> None: ...


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Where ``service`` listens while it serves in a thread. No thread of it is left afterwards."""
    before = set(threading.enumerate())
    thread = threading.Thread(target=service.serve)
    thread.start()
    # Whoever looks at the threads there are, before and after something, finds all of this service's from now on.
    accepting = wait_until(lambda: any(each.name == "cloister accepts" for each in _begun(before)), within_s=SOON)
    try:
        assert accepting, threading.enumerate()
        yield str(service.address)
    finally:
        service.stop()
        thread.join(SOON)
    assert not thread.is_alive()
    assert wait_until(lambda: set(threading.enumerate()) <= before, within_s=SOON), threading.enumerate()


def _begun(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


Handle = Callable[[Connection], None]


@contextmanager
def listening(handle: Handle, context: ssl.SSLContext) -> Iterator[str]:
    """Where ``handle`` serves whoever connects. What it asserts, the test asserts. It leaves no thread."""
    before = set(threading.enumerate())
    failed: list[AssertionError] = []

    def noting(connection: Connection) -> None:
        try:
            handle(connection)
        except AssertionError as fault:
            failed.append(fault)

    listener = Listener(address="127.0.0.1:0", context=context, accepts=lambda _: True, handle=noting)
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        yield str(listener.address)
    finally:
        listener.close(grace_s=1.0)
        thread.join(SOON)
    # The other end of a connection that ended here may take a moment to notice.
    assert wait_until(lambda: set(threading.enumerate()) <= before, within_s=SOON), threading.enumerate()
    if failed:
        raise failed[0]


@contextmanager
def answering(instance: Instance, answer: Callable[[Challenge, Connection], Proof], *, times: int = 1) -> Iterator[str]:
    """An attacker that shows the TLS key of ``instance`` and answers challenges as it likes."""

    def handle(connection: Connection) -> None:
        for _ in range(times):
            frame = connection.receive(wait_s=SOON)
            connection.send(Kind.PROOF, answer(frame.message(), connection))
        until_closed(connection)

    with listening(handle, instance.context) as at:
        yield at


def rewriting(instance: Instance, /, **fields: Any) -> Callable[[Challenge, Connection], Proof]:
    """Answers with the instance's own proof, and after that with these fields of its transcript rewritten."""

    def answer(challenge: Challenge, connection: Connection) -> Proof:
        transcript = instance.transcript(challenge.nonce, client=spki_hash(connection.peer))
        proof = instance.prove(transcript)
        return Proof(transcript=replace(transcript, **fields).encode(), evidence=proof.evidence)

    return answer


def claiming(instance: Instance, /, **fields: Any) -> Callable[[Challenge, Connection], Proof]:
    """Answers with evidence that was made for the rewritten transcript: what software could do that lies."""

    def answer(challenge: Challenge, connection: Connection) -> Proof:
        transcript = instance.transcript(challenge.nonce, client=spki_hash(connection.peer))
        return instance.prove(replace(transcript, **fields))

    return answer


class Middle:
    """Stands between a client and an instance with a TLS key of its own, and passes frames on."""

    def __init__(self, at: str, *, identity: Identity | None = None) -> None:
        self.upstream = at
        self.identity = identity
        self.frames: list[Frame] = []
        key, certificate, self.fingerprint = new_instance_key()
        self._context = instance_context(key, certificate)

    @contextmanager
    def standing(self) -> Iterator[str]:
        """Where it listens."""
        with listening(self._pass_on, self._context) as at:
            yield at

    def _pass_on(self, client: Connection) -> None:
        beyond = dial(self.upstream, identity=self.identity)
        try:
            while True:
                for source, target in ((client, beyond), (beyond, client)):
                    frame = source.receive(wait_s=SOON)
                    self.frames.append(frame)
                    target.send_raw(frame.kind, frame.header, 0)
        finally:
            beyond.close()


def dial(at: str, *, identity: Identity | None = None) -> Connection:
    """A connection of a client that checks nothing."""
    raw = reach(parse_address(at), within_s=SOON)
    secured = wrap(raw, context=unverified_client_context(identity), server_side=False)
    return Connection(secured, peer=handshake(secured, within_s=SOON))


def challenge_of(charter: Charter, *, nonce: bytes = NONCE) -> Challenge:
    """The first message of a client that has agreed on this charter."""
    return Challenge(versions=(VERSION,), nonce=nonce, charter=charter.digest)


def ask(connection: Connection, charter: Charter, *, nonce: bytes = NONCE) -> Proof:
    """What the other end proves to a client that checks nothing."""
    connection.send(Kind.CHALLENGE, challenge_of(charter, nonce=nonce))
    frame = connection.receive(wait_s=SOON)
    assert frame.kind is Kind.PROOF, frame
    proof = frame.message()
    assert isinstance(proof, Proof)
    return proof


def overheard(at: str, charter: Charter, *, nonce: bytes = NONCE, identity: Identity | None = None) -> Proof:
    """The same, on a connection of its own: genuine evidence in an attacker's hands."""
    connection = dial(at, identity=identity)
    try:
        return ask(connection, charter, nonce=nonce)
    finally:
        connection.close()


def until_closed(connection: Connection) -> None:
    """Reads on; returns when the other end ends the connection, and fails if it says something instead."""
    frame = None
    try:
        frame = connection.receive(wait_s=SOON)
    except Exception:  # noqa: BLE001  however it ends it
        return
    raise AssertionError(f"the client went on with {frame.kind.name}")


class Lying:
    """An attester that gives evidence made for something else, or of another kind."""

    def __init__(self, attester: Attester, change: Callable[[Evidence], Evidence]) -> None:
        self.tee = attester.tee
        self._attester = attester
        self._change = change

    def evidence(self, report_data: bytes) -> Evidence:
        return self._change(self._attester.evidence(report_data))


class Refusing:
    """An attester whose TEE gives nothing."""

    tee = "simulated"

    def __init__(self, fault: AttestationError) -> None:
        self._fault = fault

    def evidence(self, report_data: bytes) -> Evidence:
        raise self._fault


def frame(kind: Kind, message: Struct, *, body: bytes = b"") -> bytes:
    """A frame's bytes, for those who speak past ``Connection``."""
    header = encode(message)
    return pack_prefix(kind, header_bytes=len(header), body_bytes=len(body)) + header + body


def goodbye(connection: Connection) -> Refusal:
    """What the other end says as it ends the connection."""
    said = connection.receive(wait_s=SOON)
    assert said.kind is Kind.REFUSAL, said
    refusal = said.message()
    assert isinstance(refusal, Refusal)
    return refusal
