"""Members of a study that keep to the rules, unless a test has them do otherwise; and what they agree on.

An ``Owner`` or ``Party`` answers each message that it has heard; who carries messages, and when, is up to the test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.vectors import Vector
from cloister.charter import Charter, keys
from cloister.charter.jobs import AgreedJob, Sampling
from cloister.charter.toml import parse_charter
from cloister.ledger import answers
from cloister.ledger import job as jobs
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Ledger
from cloister.ledger.following import cut
from cloister.ledger.job import Based, Constant, Job, Part, Tensors
from cloister.ledger.next_model import repeat
from cloister.ledger.records import (
    cohort_digest,
    commit_to_be_signed,
    commitment,
    consent_to_be_signed,
    decode_cohort,
)
from cloister.ledger.sync import ModelState
from cloister.wire import rounds as w
from cloister.wire.fixed_point import SUM_TYPE, UNITS
from cloister.wire.halves import HELD_AS, packed, rounded, widened
from cloister.wire.layout import Half, Regions, lay_out, regions_of
from cloister.wire.optimizers import SGD
from cloister.wire.tensors import TensorSpec
from tests.support import charters
from tests.support.chains import sign_one

OWNERS: Final = ("alice", "bob", "chuck")
PARTS: Final = (
    Part("bias", TensorSpec("float32", (3,)), buffer=False),
    Part("mean", TensorSpec("float32", (2,)), buffer=True),
    Part("weight", TensorSpec("float32", (3, 2)), buffer=False),
)
CONSTANTS: Final = (Constant("steps", TensorSpec("int64", (1,)), bytes(8)),)
LENGTH: Final = 11


def plan_of(parts: Sequence[Part], *, frozen: Sequence[Part | Based] = ()) -> bytes:
    """A plan that learns these tensors, has some that it does not learn, and that nobody here runs."""
    held = [(each, 0) for each in parts] + [(each, None) for each in frozen]
    told: tuple[list[Any], list[Any]] = ([], [])
    after: tuple[list[int | None], list[int | None]] = ([], [])
    for each, new in held:
        what = [[each.name], each.spec.dtype, each.spec.shape]
        told[each.buffer].append(what if each.buffer else [*what, new is not None])
        after[each.buffer].append(new)
    return msgspec.msgpack.encode(["cloister plan 2", *told, [], [], [], 0, [], *after])


PLAN: Final = plan_of(PARTS)
METRICS: Final = '[[limits.metrics]]\nname = "loss"\nlow = 0.0\nhigh = 10.0\n'
RECORD: Final = '{ unit = "record", multiplier = 2.0, delta = 1e-5 }'
OWNER: Final = '{ unit = "owner", multiplier = 2.0, delta = 1e-5 }'
"""Noise, as it stands in a charter."""
DRAWN: Final[Mapping[str, Any]] = {"steps": 1, "optimizer": SGD(0.5), "sampling": Sampling(rate=0.25, rows=8)}
"""What is changed of a job where noise hides records."""


def first_model(length: int = LENGTH) -> Vector:
    """The model that studies here start from."""
    return np.linspace(-1, 1, length, dtype=np.float32)


def parts_of(length: int) -> tuple[Part, ...]:
    """Those of a model with so many values."""
    return PARTS if length == LENGTH else (Part("weight", TensorSpec("float32", (length,)), buffer=False),)


def agree(**changed: Any) -> Charter:
    """The charter in ``charter_text``."""
    return parse_charter(charter_text(**changed))


def charter_text(
    *, owners: Sequence[str] = OWNERS, length: int = LENGTH, job: Mapping[str, Any] | None = None, **changed: Any
) -> str:
    """A charter of these owners and the researcher rosa; ``changed``: limits, as they stand in the file. ``job``: what
    is changed of the one job that they agree on. Beside noise, nothing is told and no buffers are averaged."""
    start = Tensors(parts_of(length), (), CONSTANTS).name_of(first_model(length))
    limits = {
        "interactive": "false",
        "jobs": [agreed(**{"plan": hashlib.sha256(plan_of(parts_of(length))).digest(), **(job or {})})],
        "first_model": f'"{start.hex()}"',
        "largest_share": "1.0",
        "clip": "10.0",
        **({} if "noise" in changed else {"clip_buffers": "10.0", "limits": METRICS}),
        **changed,
    }
    return charters.text(owners=owners, **limits)


def agreed(**changed: Any) -> AgreedJob:
    """The job that they agree on, unless it is ``changed``."""
    return charters.agreed_job(**{"plan": hashlib.sha256(PLAN).digest(), **changed})


def make_job(charter: Charter, /, **changed: Any) -> Job:
    """A job that the charter allows, unless it is ``changed``."""
    told = {"parts": PARTS, "base": (), "constants": CONSTANTS}
    tensors = Tensors(**{name: changed.pop(name, value) for name, value in told.items()})
    given: dict[str, Any] = {
        "format": jobs.FORMAT,
        "charter": charter.digest,
        "name": "train",
        "plan": plan_of(tensors.parts, frozen=tensors.base),
        "tensors": tensors,
        "start": charter.limits.first_model,
    }
    return Job(**{**given, **changed})


def key_of(name: str) -> str:
    """The fingerprint of the member of that name."""
    return charters.fingerprint_of(name)


def regions_for(length: int = LENGTH) -> Regions:
    """Which of a model's values are parameters, and which buffers."""
    parts = parts_of(length)
    layout = lay_out({part.name: part.spec for part in parts})
    return regions_of(layout, buffers={part.name for part in parts if part.buffer})


def norms_of(vector: Vector) -> tuple[float, float]:
    """What an owner declares of a contribution: the norms of its parameters and of its buffers."""
    found = (np.concatenate([vector[each] for each in some] or [vector[:0]]) for some in regions_for(len(vector)))
    parameters, buffers = (float(np.linalg.norm(each.astype(np.float64))) for each in found)
    return parameters, buffers


def update_of(name: str, number: int, length: int = LENGTH) -> Vector:
    """What the owner of that name finds in a round."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {number}".encode()).digest()[:8], "big")
    return (np.random.default_rng(seed).normal(size=length) / max(length, 1) ** 0.5).astype(np.float32)


def travelling(update: Vector, *, half: Half | None) -> NDArray[Any]:
    """An update as it travels."""
    return update if half is None else packed(rounded(update, to=half, seed=7), to=half)


def sums_of(name: str, number: int, length: int) -> NDArray[np.signedinteger[Any]]:
    """The sum over the records that the owner of that name draws in a round."""
    return (update_of(name, number, length) * 3 * UNITS).astype(SUM_TYPE)


def examples_of(name: str) -> int:
    """How many rows an owner has."""
    return 10 + 7 * len(name)


class Heard(NamedTuple):
    """A message to a member, and its body."""

    message: Any
    body: bytes


class Party:
    """A member that keeps to the rules. ``answer`` says what it answers to what it has heard."""

    def __init__(self, name: str, charter: Charter) -> None:
        self.name = name
        self.charter = charter
        self.ledger = Ledger(charter)
        self.model: tuple[bytes, bytes] = (b"", b"")
        """Its digest, and all that came with it."""
        self.last: w.Chain | None = None
        self.work = b""
        """The newest job that it was shown, or has submitted, encoded."""

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
        if chain.first - 1 + len(chain.records) != self.ledger.sequence:  # one that is played again
            return
        if chain.model:
            self.model, self.last = (self.ledger.model or b"", body), chain
        if chain.step:
            self._repeat(chain, body)

    def _repeat(self, chain: w.Chain, step: bytes) -> None:
        assert self.last is not None
        vector, *averages = cut(memoryview(self.model[1]), (self.last.model, *self.last.state))
        before = ModelState(self.model[0], vector, tuple(averages), self.last.rounds)
        found = repeat(step, before=before, ledger=self.ledger, job=jobs.decode(self.work))
        self.model = found.digest, b"".join((found.vector, *found.averages))
        sizes = tuple(map(len, found.averages))
        self.last = w.Chain(chain.first, chain.records, len(found.vector), found.rounds if sizes else 0, sizes)

    def _hand_over(self, after: int) -> tuple[w.Chain, bytes]:
        found = self.ledger.since(after)
        if found or self.last is None or self.model[0] != self.ledger.model:
            return w.Chain(after + 1, tuple(map(len, found))), b"".join(found)
        last = self.last
        return w.Chain(after + 1, (), last.model, last.rounds, last.state), self.model[1]


class Owner(Party):
    """An owner. Attributes that start with ``spoil`` let a test change what it says."""

    def __init__(
        self, name: str, charter: Charter, *, length: int = LENGTH, key: keys.PrivateKey | None = None
    ) -> None:
        super().__init__(name, charter)
        self.key = charters.key_of(name) if key is None else key
        self.length = length
        self.draws = any(job.sampling is not None for job in charter.jobs)
        """Whether it contributes sums over records, of which it tells nothing."""
        self.half = next((job.half for job in charter.jobs), None)
        """What it rounds its contributions to."""
        self.job = b""
        self.current = b""
        """The job that it holds to be under way, encoded."""
        self.round = 0
        self.examples = examples_of(name)
        self.consents: list[Committed] = []
        """The cohorts that it has agreed to be in."""
        self.commits: list[Committed] = []
        """Those that it has committed."""
        self.void: set[bytes] = set()
        self.spoil: Callable[[Any, bytes], list[tuple[Any, bytes]]] = lambda message, body: [(message, body)]

    @property
    def salt(self) -> bytes:
        """Of its commitment in this round."""
        return hashlib.sha256(f"{self.name} {self.round}".encode()).digest()

    def join(self) -> w.Join:
        said = super().join()
        named = jobs.job_digest(self.current) if self.current else None
        return w.Join(said.sequence, said.head, self.round, said.holds, named)

    def update(self) -> bytes:
        """The bytes that it contributes in this round."""
        if self.draws:
            return sums_of(self.name, self.round, self.length).tobytes()
        return travelling(update_of(self.name, self.round, self.length), half=self.half).tobytes()

    def answer(self, heard: Heard) -> list[tuple[Any, bytes]]:
        said = super().answer(heard)
        match heard.message:
            case w.Work(job=digest):
                assert jobs.job_digest(heard.body) == digest
                self.job = digest
                self.current = self.work = heard.body
            case w.Resubmit(job=digest):
                assert jobs.job_digest(self.current) == digest
                said.append((w.Resubmitted(), self.current))
            case w.Finished(job=digest):
                assert jobs.job_digest(self.current) == digest
                self.current = b""
            case w.Propose() as asked:
                said.append((self._train(asked), b""))
            case w.Send(round=number):
                assert number == self.round
                said.append((w.Contribution(number, self.salt), self.update()))
            case w.Answers(answers=shown):
                self.void |= answers.void([*self.consents, *self.commits], answers=shown, ledger=self.ledger)
            case w.Draft(round=number, cohort=cohort):
                self.consents.append(self._entry(cohort))
                signature = sign_one(consent_to_be_signed(cohort), self.key)
                said.append((w.Consent(number, cohort_digest(cohort), signature), b""))
            case w.Settle(round=number, cohort=cohort, outcome=outcome):
                signature = sign_one(commit_to_be_signed(cohort, outcome), self.key)
                said.append((w.Commit(number, signature), b""))
        found = [each for answer in said for each in self.spoil(*answer)]
        if any(isinstance(message, w.Commit) for message, _ in found):
            self.commits.append(self._entry(heard.message.cohort))
        return found

    def standing(self, number: int) -> w.Standing:
        """Its answer to a round."""
        newest = self.ledger.settled()
        open_ = [each for each in self.commits if self._is_open(each)]
        answer = Answer(
            format="cloister answer 1",
            charter=self.charter.digest,
            round=number,
            sequence=newest.sequence,
            head=newest.head,
            committed=tuple(open_),
        )
        waits = any(map(self._is_open, (*self.consents, *self.commits)))
        return w.Standing(answers.sign(answer, key=self.key), (), waits)

    def _is_open(self, entry: Committed) -> bool:
        return entry.cohort not in self.ledger.cohorts and entry.cohort not in self.void

    def _entry(self, encoded: bytes) -> Committed:
        cohort = decode_cohort(encoded)
        members = answers.mask((share.member for share in cohort.shares), charter=self.charter)
        return Committed(cohort.round, cohort_digest(encoded), cohort.model, members)

    def _train(self, asked: w.Propose) -> Any:
        assert asked.job == self.job
        assert (asked.sequence, asked.head, asked.model) == (self.ledger.sequence, self.ledger.head, self.ledger.model)
        assert self.model[0] == asked.model
        assert asked.round > self.round
        self.round = asked.round
        committed = commitment(self.salt, memoryview(self.update()))
        kind = np.float32 if self.half is None else HELD_AS[self.half]
        norms = (0.0, 0.0) if self.draws else norms_of(widened(np.frombuffer(self.update(), kind)))
        limits = self.charter.limits
        told = max(each for each in (limits.min_examples, *limits.row_buckets) if each <= self.examples)
        return w.Ready(asked.round, told, *norms, {"loss": 1.0 / asked.round}, committed, self.standing(asked.round))
