"""A job: which of the charter's jobs a study computes next, and on which model, as one value with one digest.

The researcher submits it; the aggregator and every owner's node check it. It has no numbers of its own: those that the
charter agreed on under its name are the ones that count (``cloister.charter.jobs``).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from cloister.charter.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.charter.names import shown
from cloister.errors import CloisterError, JobError
from cloister.wire.fields import Digest, Message, Name
from cloister.wire.layout import Layout, Regions, lay_out, regions_of
from cloister.wire.limits import INPUTS, JOB_BYTES
from cloister.wire.tensors import TensorSpec

FORMAT: Final[Literal["cloister job 2"]] = "cloister job 2"
MODEL: Final = b"cloister model 1\0"
ROUND: Final = b"cloister round 1\0"


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
    """What a researcher submits. ``decode`` reads one; ``agreed`` compares it with a charter."""

    format: Literal["cloister job 2"]
    charter: Digest
    name: Name
    """The job's in the charter."""
    plan: bytes
    """The encoded plan, with its constants; SHA-256 of it is the plan's digest."""
    parts: Annotated[tuple[Part, ...], Meta(max_length=2 * INPUTS)]
    """In the order of their names."""
    constants: Annotated[tuple[Constant, ...], Meta(max_length=INPUTS)]
    """In the order of their names."""
    start: Digest
    """The model that the first round starts from (``model_digest``)."""

    @property
    def layout(self) -> Layout:
        """The place of each part in the model's vector."""
        return lay_out({part.name: part.spec for part in self.parts})

    @property
    def regions(self) -> Regions:
        """The stretches of the vector that are parameters, and those that are buffers."""
        return regions_of(self.layout, buffers={part.name for part in self.parts if part.buffer})


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


def agreed(job: Job, *, charter: Charter) -> AgreedJob:
    """The charter's job that this one is, before any model or data set is read.

    Raises:
        JobError: the charter has none of that name, or it is another. The message lists every fault.
    """
    faults = []
    if job.charter != charter.digest:
        faults.append("it is for another charter")
    found = charter.job(job.name)
    if found is None:
        faults.append(f"the charter has no job {job.name!a}; it has {_names(charter)}")
    elif (plan := hashlib.sha256(job.plan).digest()) != found.plan:
        faults.append(f"its plan is {plan.hex()}, and that of the charter's job {found.plan.hex()}")
    if charter.limits.clip_buffers is None and any(part.buffer for part in job.parts):
        faults.append("its model has buffers, and the charter does not say how far they may move (clip_buffers)")
    faults += _tensors(job)
    if faults or found is None:
        raise JobError("the job is refused: " + "; ".join(faults))
    return found


def _names(charter: Charter) -> str:
    return ", ".join(shown(each.name) for each in charter.jobs) or "none"


def _tensors(job: Job) -> list[str]:
    names = [part.name for part in job.parts]
    others = [constant.name for constant in job.constants]
    if names != sorted(set(names)) or others != sorted(set(others)) or set(names) & set(others):
        return ["its tensors are not each named once, in order"]
    try:
        if not job.regions.parameters:
            return ["its model has no parameters: owners would contribute nothing"]
        if any(constant.spec.nbytes() != len(constant.data) for constant in job.constants):
            return ["a constant of its model is longer or shorter than its shape"]
    except CloisterError as fault:
        return [str(fault)]
    return []
