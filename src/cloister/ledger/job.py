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
from cloister.ledger.learned import learned
from cloister.wire.fields import Digest, Message, Name
from cloister.wire.layout import FLOATS, Layout, Regions, lay_out, regions_of
from cloister.wire.limits import INPUTS, JOB_BYTES
from cloister.wire.tensors import TensorSpec

FORMAT: Final[Literal["cloister job 3"]] = "cloister job 3"
MODEL: Final = b"cloister model 2\0"
ROUND: Final = b"cloister round 1\0"


FROZEN_BYTES: Final = 1 << 20
"""The floating-point tensors among the constants of a model together, in bytes: larger ones belong into a base."""


class Part(Message, frozen=True):
    """A tensor that is learned: a part of the model's vector (``cloister.wire.layout``)."""

    name: Name
    spec: TensorSpec
    buffer: bool
    """Whether it is a statistic, which is averaged without the strategy, and not a parameter."""


class Based(Message, frozen=True):
    """A tensor of the base: it stays as it is, and every owner has it in a file that the charter names."""

    name: Name
    spec: TensorSpec
    buffer: bool
    file: Digest
    """SHA-256 of the safetensors file that it is in."""
    tensor: Name
    """What it is called there."""


class Constant(Message, frozen=True):
    """A tensor of the model that a study does not change and that is in no file: a counter, a small frozen tensor, or
    what a buffer starts from that each owner keeps to itself."""

    name: Name
    spec: TensorSpec
    data: bytes


class Tensors(Message, frozen=True):
    """All tensors of a model, with the values of those that no study changes; each in the order of their names."""

    parts: Annotated[tuple[Part, ...], Meta(max_length=2 * INPUTS)]
    base: Annotated[tuple[Based, ...], Meta(max_length=2 * INPUTS)] = ()
    constants: Annotated[tuple[Constant, ...], Meta(max_length=2 * INPUTS)] = ()

    @property
    def all(self) -> tuple[Part | Based | Constant, ...]:
        """Those that are learned, those of the base, and the others."""
        return (*self.parts, *self.base, *self.constants)

    @property
    def layout(self) -> Layout:
        """The place of each part in the model's vector."""
        return lay_out({part.name: part.spec for part in self.parts})

    @property
    def regions(self) -> Regions:
        """The stretches of the vector that are parameters, and those that are buffers."""
        return regions_of(self.layout, buffers={part.name for part in self.parts if part.buffer})

    @property
    def digest(self) -> bytes:
        """SHA-256 of its encoding, 32 bytes."""
        return hashlib.sha256(_encoder.encode(self)).digest()

    def name_of(self, vector: Any) -> bytes:
        """The name of the model with these tensors and the values of ``vector``, any buffer: 32 bytes."""
        return name_of_values(self.digest, vector)


class Job(Message, frozen=True):
    """What a researcher submits. ``decode`` reads one; ``agreed`` compares it with a charter."""

    format: Literal["cloister job 3"]
    charter: Digest
    name: Name
    """The job's in the charter."""
    plan: bytes
    """The encoded plan, with its constants; SHA-256 of it is the plan's digest."""
    tensors: Tensors
    start: Digest
    """The model that the first round starts from (``Tensors.name_of``)."""

    @property
    def layout(self) -> Layout:
        """The place of each learned tensor in the model's vector."""
        return self.tensors.layout

    @property
    def regions(self) -> Regions:
        """The stretches of the vector that are parameters, and those that are buffers."""
        return self.tensors.regions


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
    """The name of a model with the tensors of ``job`` and these values, 32 bytes. ``vector``: any buffer."""
    return job.tensors.name_of(vector)


def name_of_values(tensors: bytes, vector: Any) -> bytes:
    """The name of a model, 32 bytes: SHA-256 of a label, of the digest of its ``Tensors``, and of the bytes of its
    vector, little-endian. ``vector``: any buffer."""
    found = hashlib.sha256(MODEL + tensors)
    found.update(memoryview(vector).cast("B"))
    return found.digest()


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
    else:
        faults += vector_faults(job.tensors, job.plan, charter=charter)
    faults += tensor_faults(job.tensors, charter=charter)
    if faults or found is None:
        raise JobError("the job is refused: " + "; ".join(faults))
    return found


def _names(charter: Charter) -> str:
    return ", ".join(shown(each.name) for each in charter.jobs) or "none"


def vector_faults(tensors: Tensors, plan: bytes, *, charter: Charter) -> list[str]:
    """What is wrong with a model's vector, a sentence each: it holds what the plan learns, and nothing else. Who could
    have another tensor moved would be signed for by everybody.

    Raises:
        JobError: ``plan`` is no encoded plan.
    """
    parameters, buffers = learned(plan)
    if charter.limits.home_buffers:
        buffers = {}
    wanted = {name: (spec, False) for name, spec in parameters.items()}
    wanted |= {name: (spec, True) for name, spec in buffers.items()}
    told = {part.name: (part.spec, part.buffer) for part in tensors.parts}
    differing = sorted(name for name in wanted.keys() | told.keys() if wanted.get(name) != told.get(name))
    if differing:
        return [f"its vector holds other tensors than its plan learns: they differ in {', '.join(differing[:5])!a}"]
    if not parameters:
        return ["its plan learns no parameters: owners would contribute nothing"]
    if buffers and charter.limits.clip_buffers is None:
        return [
            "its plan writes buffers, and the charter says neither how far they may move (clip_buffers) nor that they"
            " stay at home (home_buffers)"
        ]
    return []


def tensor_faults(tensors: Tensors, *, charter: Charter) -> list[str]:
    """What is wrong with a model's tensors by themselves, a sentence each."""
    listed = [[each.name for each in some] for some in (tensors.parts, tensors.base, tensors.constants)]
    names = [name for some in listed for name in some]
    if any(some != sorted(some) for some in listed) or len(set(names)) < len(names):
        return ["its tensors are not each named once, in order"]
    return _held(tensors, charter)


def _held(tensors: Tensors, charter: Charter) -> list[str]:
    """Whether what is not learned is where it may be."""
    files = {file for base in charter.bases for file in base.files}
    stray = [each.name for each in tensors.base if each.file not in files]
    if stray:
        return [f"its tensor {stray[0]!a} is in a file that the charter does not name under [[bases]]"]
    try:
        if any(each.spec.nbytes() != len(each.data) for each in tensors.constants):
            return ["a constant of its model is longer or shorter than its shape"]
    except CloisterError as fault:
        return [str(fault)]
    if any(each.spec.dtype == "bool" and each.data.translate(None, b"\0\1") for each in tensors.constants):
        return ["a bool constant of its model holds bytes other than 0 and 1"]
    if sum(len(each.data) for each in tensors.constants if each.spec.dtype in FLOATS) > FROZEN_BYTES:
        return [f"its constants hold more than {FROZEN_BYTES} bytes of floating-point tensors: they belong into a base"]
    return []
