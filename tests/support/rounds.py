"""A study in memory: an aggregator's real state machine, and members that talk to it. The test carries the messages."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.aggregation.steps import rounding_seed
from cloister.aggregation.strategies import State, apply_to_parameters, read
from cloister.aggregation.vectors import Vector
from cloister.aggregator.bodies import Body
from cloister.aggregator.events import Drop, Effect, Event, Joined, Left, Note, Said, Tell, Tick
from cloister.aggregator.own import InstanceIdentity
from cloister.aggregator.protocol import AggregatorProtocol
from cloister.attest import evidence
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.transcript import Transcript
from cloister.charter import Charter
from cloister.errors import CloisterError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.wire import rounds as w
from cloister.wire.halves import rounded, widened
from cloister.wire.messages import Proof
from tests.aggregation.means import Contribution as Contributed
from tests.aggregation.means import Level, mean
from tests.support.owners import (
    LENGTH,
    Heard,
    Owner,
    Party,
    agree,
    first_model,
    key_of,
    make_job,
    parts_of,
    travelling,
    update_of,
)

ATTESTER: Final = SimulatedAttester(measurement=b"\x5a" * 48, platform=b"\x77" * 32)


class Instance:
    """One run of the aggregator, and what it wants said to whom. Time is ``now``, and stands still."""

    def __init__(self, charter: Charter, *, seed: int = 0, collateral: bytes | None = None) -> None:
        self.charter = charter
        self.now = 0.0
        self.heard: dict[str, deque[Heard]] = {}
        """What members have been told and not read, by fingerprint; only of those that are connected."""
        self.dropped: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"instance {seed}".encode()).digest())
        self._salts = (hashlib.sha256(f"salt {seed} {at}".encode()).digest() for at in count())
        self.signer = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        own = InstanceIdentity(
            signer=self.signer,
            sign=self._key.sign,
            prove=self.prove,
            salt=lambda: next(self._salts),
            random=np.random.Generator(np.random.PCG64(seed)).bytes,
            time=lambda: 1_800_000_000_000 + int(self.now * 1000),
            collateral=collateral,
        )
        self.rounds = AggregatorProtocol(charter, own=own)

    @property
    def ledger(self) -> Ledger:
        return self.rounds.ledger

    def connect(self, name: str) -> None:
        """A member's connection is welcomed."""
        self.heard[key_of(name)] = deque()
        self.happen(Joined(key_of(name)))

    def disconnect(self, name: str) -> None:
        """It ends."""
        self.heard.pop(key_of(name), None)
        self.happen(Left(key_of(name)))

    def say(self, name: str, message: Any, body: bytes = b"") -> None:
        """A member's message and its body arrive whole; a body that nobody asked for ends the connection."""
        buffer = self.begin(name, message, len(body))
        if buffer is None and body:
            self.disconnect(name)
            return
        if buffer is not None:
            fill(buffer, body)
        self.happen(Said(key_of(name), message, buffer))

    def begin(self, name: str, message: Any, body_bytes: int) -> Body | None:
        """A member's message has arrived, and its body is still to come."""
        try:
            return self.rounds.expect(key_of(name), message, body_bytes=body_bytes)
        except CloisterError:
            return None

    def tick(self, *, seconds: float | None = None) -> None:
        """Time passes: so many seconds, or until the moment that was asked for."""
        due = self.rounds.due
        if seconds is None:
            assert due is not None
            self.now = max(self.now, due)
        else:
            self.now += seconds
        self.happen(Tick())

    def happen(self, event: Event) -> None:
        for effect in self.rounds.handle(event, now=self.now):
            self._do(effect)

    def read(self, name: str) -> list[Any]:
        """The messages that a member has been told since it was asked last, without their bodies."""
        told = self.heard.get(key_of(name), deque())
        messages = [each.message for each in told]
        told.clear()
        return messages

    def _do(self, effect: Effect) -> None:
        match effect:
            case Tell(member=member, message=message, bodies=bodies):
                self.heard[member].append(Heard(message, b"".join(bodies)))
            case Drop(member=member, why=why):
                self.dropped.append((member, why))
                self.heard.pop(member)
            case Note(text=text):
                self.notes.append(text)

    def prove(self, nonce: bytes) -> Proof:
        """What it proves now."""
        transcript = Transcript(
            role="aggregator",
            tee="simulated",
            nonce=nonce,
            hpke_key=bytes(1216),
            signing_key=self.signer,
            charter=self.charter.digest,
            instance=self.signer[:16],
            name=self.charter.addresses[0],
            server=bytes(32),
            client=None,
            ledger_head=self.ledger.head,
            ledger_sequence=self.ledger.sequence,
            configuration=None,
        )
        found = ATTESTER.evidence(transcript.report_data())
        return Proof(transcript.encode(), evidence.encode(found))


def fill(buffer: Body, data: bytes) -> None:
    """What arrives, into the room for it. It may be cut off."""
    for part in buffer.buffers():
        part[:] = data[: len(part)].ljust(len(part), b"\0")
        data = data[len(part) :]
        buffer.update(part)


class Study:
    """One instance, its owners, and a researcher, as they talk to each other until all has been said."""

    def __init__(
        self,
        charter: Charter | None = None,
        *,
        agreed: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        length: int = LENGTH,
    ) -> None:
        self.charter = agree(length=length, job=agreed) if charter is None else charter
        self.length = length
        self.job = make_job(self.charter, **{"parts": parts_of(length), **(job or {})})
        self.data = jobs.encode(self.job)
        self.instance = Instance(self.charter)
        self.owners = {each.name: Owner(each.name, self.charter, length=length) for each in self.charter.owners}
        self.rosa = Party("rosa", self.charter)
        self.rosa.work = self.data
        self.parties: dict[str, Party] = {**self.owners, "rosa": self.rosa}
        self.said: dict[str, list[Any]] = {name: [] for name in self.parties}
        """All that each has been told."""

    def restart(self, *, seed: int) -> None:
        """The instance dies, and another one is started."""
        self.instance = Instance(self.charter, seed=seed)
        for owner in self.owners.values():
            owner.job = b""

    def join(self, *names: str) -> None:
        """These connect and join; by default all."""
        for name in names or tuple(self.parties):
            self.instance.connect(name)
            self.instance.say(name, self.parties[name].join())

    def submit(self) -> None:
        """The researcher submits the job."""
        body = self.data + first_model(self.length).tobytes()
        self.instance.say("rosa", w.Submit(len(self.data)), body)

    def step(self) -> bool:
        """The next message is read and answered; False where there is none."""
        for name, party in self.parties.items():
            told = self.instance.heard.get(key_of(name))
            if told:
                heard = told.popleft()
                self.said[name].append(heard.message)
                for message, body in party.answer(heard):
                    self.instance.say(name, message, body)
                return True
        return False

    def settle(self, *, steps: int = 10_000) -> None:
        """Until nothing is left to be read."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError("they never stop talking")

    def run(self) -> None:
        """All join, and the job is submitted and runs to its end."""
        self.join()
        self.submit()
        self.settle()

    @property
    def model(self) -> Vector:
        """The newest model, as the researcher was given it."""
        return np.frombuffer(self.rosa.model[1][: self.length * 4], np.float32)

    def expected(self, *cohorts: Sequence[str], numbers: Sequence[int] = ()) -> Vector:
        """What rounds of these cohorts must have come to."""
        examples = {name: owner.examples for name, owner in self.owners.items()}
        return by_hand(self.charter, self.job, *cohorts, numbers=numbers, length=self.length, examples=examples)


def by_hand(
    charter: Charter,
    job: Job,
    *cohorts: Sequence[str],
    numbers: Sequence[int] = (),
    length: int = LENGTH,
    examples: Mapping[str, int],
) -> Vector:
    """What rounds of these cohorts must have come to, by ``mean`` and ``update_of`` alone."""
    agreed = charter.job(job.name)
    assert agreed is not None
    limits, model, rule = charter.limits, first_model(length), read(agreed.strategy)
    level = Level(limits.floor, (limits.clip, limits.clip_buffers), job.regions)
    state: State = rule.start(length)
    buckets = (limits.min_examples, *limits.row_buckets)
    told = {name: max(each for each in buckets if each <= rows) for name, rows in examples.items()}
    digest = jobs.job_digest(jobs.encode(job))
    for release, (number, names) in enumerate(zip(numbers or count(1), cohorts, strict=False), 1):
        found = {}
        for name in names:
            update = widened(travelling(update_of(name, number, length), half=agreed.half))
            found[name] = Contributed(update, told[name] if agreed.weights == "rows" else 1)
        average = mean(found, largest_share=limits.largest_share, level=level)
        if agreed.half is not None:
            average = rounded(average, to=agreed.half, seed=rounding_seed(digest, number=release))
        elif state.averages:
            average = average.astype(np.float32)
        model, state = apply_to_parameters(rule, model, mean=average, state=state, buffers=job.regions.buffers)
    return model
