"""Members of a study over real TLS on loopback, speaking ``cloister.wire.rounds`` by hand."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cloister.charter.toml import parse_charter
from cloister.enclave.server import Aggregator
from cloister.errors import NetworkError
from cloister.ledger import job as jobs
from cloister.net.attested import attest_peer
from cloister.net.connection import Frame
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity, private_key
from cloister.net.policy import AttestationPolicy
from cloister.net.proving import Instance
from cloister.wire import rounds as w
from cloister.wire.frames import VERSION, Kind
from cloister.wire.messages import Challenge
from cloister.wire.peers import Address
from tests.support import charters
from tests.support.attested import serving
from tests.support.owners import LENGTH, OWNERS, Heard, Owner, Party, charter_text, first_model, make_job, parts_of
from tests.support.rounds import ATTESTER
from tests.support.tls import SOON


class Table:
    """A charter of OWNERS and rosa with keys in files, a job, and the aggregator that serves them, one at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        agreed: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        length: int = LENGTH,
        **limits: Any,
    ) -> None:
        self.identities = {name: Identity.create(folder / f"{name}.key") for name in (*OWNERS, "rosa", "mallory")}
        text = charter_text(length=length, job=agreed, **limits).replace("not_after = 2027", "not_after = 2127")
        for name, identity in self.identities.items():
            text = text.replace(charters.fingerprint_of(name), identity.fingerprint)
        self.charter = parse_charter(text)
        self.length = length
        self.job = make_job(self.charter, **{"parts": parts_of(length), **(job or {})})
        self.data = jobs.encode(self.job)
        self.address = self.charter.addresses[0]
        keys = {name: private_key(self.identities[name].path) for name in OWNERS}
        self.owners = {name: Owner(name, self.charter, length=length, key=keys[name]) for name in OWNERS}
        self.rosa = Party("rosa", self.charter)
        self.rosa.work = self.data
        self.at = ""

    @contextmanager
    def serving(self, **options: Any) -> Iterator[None]:
        """Its aggregator, in a thread."""
        instance = Instance(role="aggregator", attester=ATTESTER, charter=self.charter.digest, name=self.address)
        service = Aggregator(instance, charter=self.charter, listen=Address("127.0.0.1", 0), **options)
        with serving(service) as self.at:
            yield

    def dial(self, name: str) -> Line:
        """A member's connection, welcomed."""
        return Line(self, name)

    def sit(self, name: str) -> Seated:
        """A member that keeps to the rules, in a thread."""
        party = self.owners.get(name, self.rosa)
        return Seated(self, party)

    def submit(self, line: Line) -> None:
        line.say(w.Submit(len(self.data)), self.data + first_model(self.length).tobytes())


class Line:
    """A connection, and what is said on it."""

    def __init__(self, table: Table, name: str) -> None:
        policy = AttestationPolicy(charter=table.charter, accept_simulated=True)
        self.charter = table.charter
        self.attested = attest_peer(
            table.address, policy=policy, identity=table.identities[name], at=table.at, within_s=SOON
        )
        self.connection = self.attested.connection
        self.proofs = 0
        self._early: deque[Heard] = deque()
        greet(self.connection, purpose="study", software="test", wait_s=SOON)

    def join(self, party: Party) -> None:
        """Says that it joins, and returns once that has been heard: a proof that is asked for after it has come."""
        self.say(party.join())
        self.challenge()
        while (frame := self.connection.receive(wait_s=SOON)).kind is not Kind.PROOF:
            self._early.append(self._whole(frame))

    def say(self, message: Any, body: bytes = b"") -> None:
        self.connection.send(Kind.ROUND, message, [memoryview(body)] if body else ())

    def challenge(self) -> None:
        """Asks for another proof, which comes among the messages."""
        nonce = bytes(range(32))
        self.connection.send(Kind.CHALLENGE, Challenge(versions=(VERSION,), nonce=nonce, charter=self.charter.digest))

    def hear(self) -> Heard:
        """The next message of the study."""
        while not self._early:
            frame = self.connection.receive(wait_s=SOON)
            if frame.kind is Kind.PROOF:
                self.proofs += 1
            else:
                return self._whole(frame)
        return self._early.popleft()

    def _whole(self, frame: Frame) -> Heard:
        body = bytearray(frame.body_bytes)
        self.connection.read_into(memoryview(body))
        return Heard(frame.message(), bytes(body))

    def until(self, kind: type) -> Any:
        """The next message of this kind; those before it are passed over."""
        while not isinstance(message := self.hear().message, kind):
            pass
        return message

    def close(self) -> None:
        self.connection.close()


class Seated:
    """A member in a thread: it joins, challenges before each round, and answers as its party does, until it is told
    that the job is over, or leaves."""

    def __init__(self, table: Table, party: Party) -> None:
        self.party = party
        self.line = table.dial(party.name)
        self.told: list[Any] = []
        self.released = threading.Semaphore(0)
        self.line.join(party)
        self._thread = threading.Thread(target=self._talk, name=f"member {party.name}")
        self._thread.start()

    def _talk(self) -> None:
        with suppress(NetworkError):
            while True:
                heard = self.line.hear()
                self.told.append(heard.message)
                if isinstance(heard.message, w.Propose):
                    self.line.challenge()
                answers = self.party.answer(heard)
                if isinstance(heard.message, w.Chain) and heard.message.records:
                    self.released.release()
                for message, body in answers:
                    self.line.say(message, body)

    def leave(self) -> None:
        self.line.connection.interrupt()
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        self.line.close()
