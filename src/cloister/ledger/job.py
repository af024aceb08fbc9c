"""A job: everything that determines what a study computes, as one value with one encoding and one digest.

The researcher submits it; the aggregator and every owner's node check it. A round's digest covers it, so all
contributions to a round come from the same plan, numbers, seed and data tag.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from cloister.aggregation import strategies
from cloister.aggregation.strategies import Strategy
from cloister.charter.charter import Charter
from cloister.errors import CloisterError, ConfigurationError, JobError
from cloister.wire.fields import Digest, Message, Name
from cloister.wire.layout import Layout, lay_out
from cloister.wire.limits import INPUTS, JOB_BYTES
from cloister.wire.optimizers import Optimizer
from cloister.wire.tensors import TensorSpec

FORMAT: Final[Literal["cloister job 1"]] = "cloister job 1"
MODEL: Final = b"cloister model 1\0"
ROUND: Final = b"cloister round 1\0"
WEEK_S: Final = 7 * 24 * 3600.0

Whole = Annotated[int, Meta(ge=1, lt=1 << 53)]


class Part(Message, frozen=True):
    """A floating-point tensor of the model: a part of its vector (``cloister.wire.layout``)."""

    name: Name
    spec: TensorSpec
    buffer: bool
    """Whether it is a statistic, which is averaged without the strategy, and not a parameter."""


class Constant(Message, frozen=True):
    """A tensor of the model that is not floating-point, such as a counter. A study does not change it."""

    name: Name
    spec: TensorSpec
    data: bytes


class Job(Message, frozen=True):
    """The computation of each of ``rounds`` rounds. ``decode`` reads one; ``check`` compares it with a charter."""

    format: Literal["cloister job 1"]
    charter: Digest
    plan: bytes
    """The encoded plan, with its constants; SHA-256 of it is the plan's digest."""
    parts: Annotated[tuple[Part, ...], Meta(max_length=2 * INPUTS)]
    """In the order of their names."""
    constants: Annotated[tuple[Constant, ...], Meta(max_length=INPUTS)]
    """In the order of their names."""
    start: Digest
    """The model that the first round starts from (``model_digest``)."""
    optimizer: Optimizer
    batch_size: Whole
    local_epochs: Whole
    seed: Annotated[int, Meta(ge=0)]
    """Each owner's seed is ``owner_seed`` of it and of the release's number, counted from 1 for each job."""
    data: Name
    """The tag of the data sets that owners train on."""
    strategy: Name
    numbers: Annotated[dict[Name, float], Meta(max_length=16)]
    """The strategy, by the name of its class in ``cloister.aggregation.strategies``, and its numbers."""
    rounds: Whole
    seconds: float
    """The time that owners have for one round's training."""

    @property
    def layout(self) -> Layout:
        """The place of each part in the model's vector."""
        return lay_out({part.name: part.spec for part in self.parts})

    @property
    def buffers(self) -> list[slice]:
        """The parts of the vector that are not parameters."""
        buffers = {part.name for part in self.parts if part.buffer}
        return [slice(place.start, place.stop) for place in self.layout.places if place.name in buffers]

    @property
    def rule(self) -> Strategy:
        """The strategy.

        Raises:
            ConfigurationError: there is none of that name, or not with these numbers.
        """
        return strategies.rule(self.strategy, **self.numbers)

    @property
    def proximal(self) -> float:
        """The mu of FedProx, which owners train with; 0 under another strategy."""
        return self.numbers.get("mu", 0.0) if self.strategy == "FedProx" else 0.0


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_decoder: Final = msgspec.msgpack.Decoder(Job)


def encode(job: Job) -> bytes:
    """The job's encoding; there is one."""
    return _encoder.encode(job)


def decode(data: bytes) -> Job:
    """Decodes a job. Nothing of its content is checked yet.

    Raises:
        JobError: the bytes are no job, or not in its one encoding.
    """
    if len(data) > JOB_BYTES:
        raise JobError(f"a job of {len(data)} bytes is over the limit of {JOB_BYTES}")
    try:
        job = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise JobError("the bytes are no job of this version") from None
    if encode(job) != bytes(data):
        raise JobError("the bytes are no job: it is not in its one spelling")
    return job


def job_digest(data: bytes) -> bytes:
    """SHA-256 of an encoded job, 32 bytes."""
    return hashlib.sha256(data).digest()


def model_digest(job: Job, vector: Any) -> bytes:
    """The name of a model with the tensors of ``job`` and these values, 32 bytes.

    SHA-256 of the label, SHA-256 of what is known of the tensors (msgpack of parts and constants), and the vector's
    bytes, little-endian. ``vector``: any buffer.
    """
    return name_of_values(tensors_digest(job), vector)


def tensors_digest(job: Job) -> bytes:
    """SHA-256 of what is known of the tensors of its models, 32 bytes: what ``model_digest`` takes from a job."""
    return _tensors_digest(job.parts, job.constants)


def name_of_values(tensors: bytes, vector: Any) -> bytes:
    """``model_digest`` of these values, by the ``tensors_digest`` of a job that need not be there any more."""
    found = hashlib.sha256(MODEL + tensors)
    found.update(memoryview(vector).cast("B"))
    return found.digest()


def _tensors_digest(parts: tuple[Part, ...], constants: tuple[Constant, ...]) -> bytes:
    return hashlib.sha256(_encoder.encode([parts, constants])).digest()


def describe(parts: tuple[Part, ...], constants: tuple[Constant, ...], vector: Any) -> bytes:
    """``model_digest`` of a model that is in no job yet: what a charter's ``first_model`` is."""
    return name_of_values(_tensors_digest(parts, constants), vector)


def round_digest(job: bytes, *, charter: bytes, number: int, model: bytes, head: bytes) -> bytes:
    """The digest that all contributions to one round share, 32 bytes. ``job``, ``model``, ``head``: digests, the last
    one of the newest record in the ledger, or nothing."""
    return hashlib.sha256(ROUND + charter + job + number.to_bytes(8, "big") + model + head.rjust(32, b"\0")).digest()


def owner_seed(seed: int, *, number: int, owner: str) -> int:
    """The seed of one owner's training for the ``number``th release (from 1): the first 8 bytes, big-endian, of SHA-256
    of ``"seed number owner"``. It does not depend on the other owners."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {owner}".encode()).digest()[:8], "big")


def check(job: Job, *, charter: Charter) -> None:
    """Checks a job against a charter, before any model or data set is read.

    Raises:
        JobError: the charter does not allow it, or its numbers make no sense. The message lists every fault.
    """
    faults = []
    if job.charter != charter.digest:
        faults.append("it is for another charter")
    plan = hashlib.sha256(job.plan).digest()
    if plan not in charter.limits.plans:
        faults.append(f"its plan, {plan.hex()}, is not one of the charter's")
    if job.rounds > charter.limits.rounds:
        faults.append(f"it asks for {job.rounds} rounds, and the charter allows {charter.limits.rounds} in all")
    if not job.data or not job.data.isprintable():
        faults.append("it names no data set")
    if not (math.isfinite(job.seconds) and 0 < job.seconds <= WEEK_S):
        faults.append("the time for a round is more than 0 and at most a week")
    if not job.seed < 1 << 64:
        faults.append("its seed has more than 64 bits")
    faults += [f"its optimizer: {fault}" for fault in job.optimizer.faults()]
    if job.optimizer.lr == 0:
        faults.append("its learning rate is 0: owners would contribute nothing")
    faults += _tensors(job)
    try:
        _ = job.rule
    except ConfigurationError as fault:
        faults.append(str(fault))
    if faults:
        raise JobError("the job is refused: " + "; ".join(faults))


def _tensors(job: Job) -> list[str]:
    names = [part.name for part in job.parts]
    others = [constant.name for constant in job.constants]
    if names != sorted(set(names)) or others != sorted(set(others)) or set(names) & set(others):
        return ["its tensors are not each named once, in order"]
    try:
        if job.layout.length == sum(each.stop - each.start for each in job.buffers):
            return ["its model has no parameters: owners would contribute nothing"]
        if any(constant.spec.nbytes() != len(constant.data) for constant in job.constants):
            return ["a constant of its model is longer or shorter than its shape"]
    except CloisterError as fault:
        return [str(fault)]
    return []
