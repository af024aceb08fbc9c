"""A study in memory: real keys, charters, jobs and ledgers, one aggregator's state machine, and owners who keep to the
rules unless a test has them do otherwise. Whoever drives decides what arrives, and when."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.aggregation.strategies import State, apply_to_parameters
from cloister.aggregation.vectors import Vector
from cloister.aggregator.bodies import Body
from cloister.aggregator.events import Drop, Effect, Event, Joined, Left, Note, Said, Tell, Tick
from cloister.aggregator.own import InstanceIdentity
from cloister.aggregator.protocol import AggregatorProtocol
from cloister.attest import evidence
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.transcript import Transcript
from cloister.charter import Charter, keys
from cloister.errors import CloisterError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Constant, Job, Part
from cloister.ledger.records import cohort_to_be_signed, commitment, decode_cohort
from cloister.wire import rounds as w
from cloister.wire.messages import Proof
from cloister.wire.optimizers import SGD
from cloister.wire.tensors import TensorSpec
from tests import charters
from tests.aggregation.means import Contribution as Contributed
from tests.aggregation.means import mean

OWNERS: Final = ("alice", "bob", "chuck")
PLAN: Final = b"a plan that nobody here runs"
PARTS: Final = (
    Part("bias", TensorSpec("float32", (3,)), buffer=False),
    Part("mean", TensorSpec("float32", (2,)), buffer=True),
    Part("weight", TensorSpec("float32", (3, 2)), buffer=False),
)
CONSTANTS: Final = (Constant("steps", TensorSpec("int64", (1,)), bytes(8)),)
LENGTH: Final = 11
ATTESTER: Final = SimulatedAttester(measurement=b"\x5a" * 48, platform=b"\x77" * 32)
METRICS: Final = '[[limits.metrics]]\nname = "loss"\nlow = 0.0\nhigh = 10.0\n'


def first_model(length: int = LENGTH) -> Vector:
    """The model that studies here start from."""
    return np.linspace(-1, 1, length, dtype=np.float32)


def parts_of(length: int) -> tuple[Part, ...]:
    """Those of a model with so many values."""
    return PARTS if length == LENGTH else (Part("weight", TensorSpec("float32", (length,)), buffer=False),)


def agree(**changed: Any) -> Charter:
    """The charter in ``charter_text``."""
    return Charter.parse(charter_text(**changed))


def charter_text(*, owners: Sequence[str] = OWNERS, length: int = LENGTH, **changed: str) -> str:
    """A charter of these owners and the researcher rosa; ``changed``: limits, as they stand in the file."""
    start = jobs.describe(parts_of(length), CONSTANTS, first_model(length))
    limits = {
        "interactive": "false",
        "plans": f'["{hashlib.sha256(PLAN).hexdigest()}"]',
        "first_model": f'"{start.hex()}"',
        "largest_share": "1.0",
        "clip": "10.0",
        "limits": METRICS,
        **changed,
    }
    return charters.text(owners=owners, **limits)


def make_job(charter: Charter, /, **changed: Any) -> Job:
    """A job that the charter allows, unless it is ``changed``."""
    given: dict[str, Any] = {
        "format": "cloister job 1",
        "charter": charter.digest,
        "plan": PLAN,
        "parts": PARTS,
        "constants": CONSTANTS,
        "start": charter.limits.first_model,
        "optimizer": SGD(0.1, 0.0, None, None, 0.0, 0.0, False),
        "batch_size": 8,
        "local_epochs": 1,
        "seed": 7,
        "data": "#mri",
        "strategy": "FedAvg",
        "numbers": {"lr": 1.0},
        "rounds": 3,
        "seconds": 60.0,
    }
    return Job(**{**given, **changed})


def key_of(name: str) -> str:
    """The fingerprint of the member of that name."""
    return charters.fingerprint_of(name)


def update_of(name: str, number: int, length: int = LENGTH) -> Vector:
    """What the owner of that name finds in a round."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {number}".encode()).digest()[:8], "big")
    return (np.random.default_rng(seed).normal(size=length) / max(length, 1) ** 0.5).astype(np.float32)


def examples_of(name: str) -> int:
    """How many rows an owner has."""
    return 10 + 7 * len(name)


class Heard(NamedTuple):
    """A message to a member, and its body."""

    message: Any
    body: bytes


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


class Party:
    """A member that keeps to the rules. ``answer`` says what it answers to what it has heard."""

    def __init__(self, name: str, charter: Charter) -> None:
        self.name = name
        self.charter = charter
        self.ledger = Ledger(charter)
        self.model: tuple[bytes, bytes] = (b"", b"")
        """Its digest, and all that came with it."""
        self.last: w.Chain | None = None

    def join(self) -> w.Join:
        """What it says first."""
        self.ledger = self.ledger.settled()
        return w.Join(self.ledger.sequence, self.ledger.head, 0, self.model[0] == (self.ledger.model or b""))

    def answer(self, heard: Heard) -> list[tuple[Any, bytes]]:
        match heard.message:
            case w.Chain() as chain:
                self._take(chain, heard.body)
            case w.HandOver(after=after):
                return [self._hand_over(after)]
        return []

    def _take(self, chain: w.Chain, body: bytes) -> None:
        found = []
        for size in chain.records:
            found.append(body[:size])
            body = body[size:]
        if chain.first - 1 < self.ledger.sequence:
            self.ledger = self.ledger.settled()
        assert chain.first - 1 <= self.ledger.sequence
        self.ledger.extend(found[self.ledger.sequence - chain.first + 1 :])
        if chain.model:
            self.model, self.last = (self.ledger.model or b"", body), chain

    def _hand_over(self, after: int) -> tuple[w.Chain, bytes]:
        found = self.ledger.since(after)
        sizes = tuple(map(len, found))
        if self.last is None or self.model[0] != self.ledger.model:
            return w.Chain(after + 1, sizes), b"".join(found)
        last = self.last
        return w.Chain(after + 1, sizes, last.model, last.rounds, last.state), b"".join(found) + self.model[1]


class Owner(Party):
    """An owner. Attributes that start with ``spoil`` let a test change what it says."""

    def __init__(
        self, name: str, charter: Charter, *, length: int = LENGTH, key: keys.PrivateKey | None = None
    ) -> None:
        super().__init__(name, charter)
        self.key = charters.key_of(name) if key is None else key
        self.length = length
        self.job = b""
        self.round = 0
        self.examples = examples_of(name)
        self.signed: dict[bytes, set[tuple[str, ...]]] = {}
        """By model: the members of each cohort that it has signed."""
        self.spoil: Callable[[Any, bytes], list[tuple[Any, bytes]]] = lambda message, body: [(message, body)]

    @property
    def salt(self) -> bytes:
        """Of its commitment in this round."""
        return hashlib.sha256(f"{self.name} {self.round}".encode()).digest()

    def join(self) -> w.Join:
        said = super().join()
        return w.Join(said.sequence, said.head, self.round, said.holds)

    def update(self) -> bytes:
        """The bytes that it contributes in this round."""
        return update_of(self.name, self.round, self.length).tobytes()

    def answer(self, heard: Heard) -> list[tuple[Any, bytes]]:
        answers = super().answer(heard)
        match heard.message:
            case w.Work(job=digest):
                assert jobs.job_digest(heard.body) == digest
                self.job = digest
            case w.Propose() as asked:
                answers.append((self._train(asked), b""))
            case w.Send(round=number):
                assert number == self.round
                answers.append((w.Contribution(number, self.salt), self.update()))
            case w.Sign(round=number, cohort=cohort):
                signature = keys.sign(cohort_to_be_signed(cohort), key=self.key)
                answers.append((w.Signature(number, keys.public_bytes(self.key), signature), b""))
        said = [said for answer in answers for said in self.spoil(*answer)]
        if any(isinstance(message, w.Signature) for message, _ in said):
            signed = decode_cohort(heard.message.cohort)
            self.signed.setdefault(signed.model, set()).add(tuple(share.member for share in signed.shares))
        return said

    def _train(self, asked: w.Propose) -> Any:
        assert asked.job == self.job
        assert (asked.sequence, asked.head, asked.model) == (self.ledger.sequence, self.ledger.head, self.ledger.model)
        assert self.model[0] == asked.model
        assert asked.round > self.round
        self.round = asked.round
        committed = commitment(self.salt, memoryview(self.update()))
        signed = tuple(sorted(self.signed.get(asked.model, ())))
        return w.Ready(asked.round, self.examples, {"loss": 1.0 / asked.round}, committed, signed)


class Study:
    """One instance, its owners, and a researcher, as they talk to each other until all has been said."""

    def __init__(
        self, charter: Charter | None = None, *, job: Mapping[str, Any] | None = None, length: int = LENGTH
    ) -> None:
        self.charter = agree(length=length) if charter is None else charter
        self.length = length
        self.job = make_job(self.charter, **{"parts": parts_of(length), **(job or {})})
        self.data = jobs.encode(self.job)
        self.instance = Instance(self.charter)
        self.owners = {each.name: Owner(each.name, self.charter, length=length) for each in self.charter.owners}
        self.rosa = Party("rosa", self.charter)
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
        """What rounds of these cohorts must have come to, by ``mean`` and ``updates`` alone."""
        model, rule = first_model(self.length), self.job.rule
        state: State = rule.start(self.length)
        for number, names in zip(numbers or count(1), cohorts, strict=False):
            found = {
                name: Contributed(update_of(name, number, self.length), self.owners[name].examples) for name in names
            }
            average = mean(found, largest_share=self.charter.limits.largest_share)
            model, state = apply_to_parameters(rule, model, mean=average, state=state, buffers=self.job.buffers)
        return model
