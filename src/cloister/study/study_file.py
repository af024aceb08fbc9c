"""One file for all that an owner signs: the charter, the plans of its jobs, and the model that it starts from.

Everything in it is data, and none of it is run. What the charter names by digest is held against that here: a study
file whose parts do not belong together is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from cloister.charter.charter import Charter
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, CloisterError, JobError, PlanError
from cloister.ledger.first_model import drawn_vector
from cloister.ledger.job import Constant, Tensors, tensor_faults, vector_faults
from cloister.tables import TEXT_BYTES
from cloister.tensor.plan import encoding
from cloister.tensor.plan.encoding import PLAN_BYTES
from cloister.tensor.plan.program import Program
from cloister.wire.fields import Message
from cloister.wire.layout import Layout
from cloister.wire.tensors import TensorSpec
from cloister.wire.text import is_visible, quoted

FORMAT: Final[Literal["cloister study 2"]] = "cloister study 2"
FILE_BYTES: Final = 1 << 30
"""The longest file that is read: values of a larger model are left out of it."""
VALUES_BYTES: Final = FILE_BYTES // 2
"""The longest first model whose values are in a study file, or are drawn for one."""
PLANS: Final = 64
_NAMED: Final = 5
"""So many tensors are named in an error."""


class _Contents(Message, frozen=True):
    format: Literal["cloister study 2"]
    text: Annotated[str, Meta(max_length=TEXT_BYTES)]
    """What the study is for, in its researchers' words."""
    charter: Annotated[str, Meta(max_length=TEXT_BYTES)]
    """charter.toml."""
    plans: Annotated[tuple[Annotated[bytes, Meta(max_length=PLAN_BYTES)], ...], Meta(max_length=PLANS)]
    tensors: Tensors
    vector: bytes | None
    """What is learned of the first model; None where it is drawn, published, or too large."""


@dataclass(frozen=True)
class StudyFile:
    """A study file whose parts belong together."""

    text: str
    charter_text: str
    charter: Charter
    plans: Mapping[bytes, bytes]
    """The encoded plans of the charter's jobs, by their digests."""
    tensors: Tensors
    """The model's."""
    vector: bytes | None
    """What is learned of the first model, if it is in the file, or is drawn and not too large; None otherwise."""
    drawn: bool
    """Whether they were drawn here, by the charter's recipe."""

    def program(self, plan: bytes) -> Program:
        """A plan as data, not checked."""
        return encoding.decode(self.plans[plan])

    @property
    def layout(self) -> Layout:
        """Where the values of each tensor stand in the model's vector."""
        return self.tensors.layout


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_decoder: Final = msgspec.msgpack.Decoder(_Contents)


def encode(
    *,
    text: str,
    charter: str,
    plans: tuple[bytes, ...],
    tensors: Tensors,
    vector: bytes | None,
) -> bytes:
    """The bytes of a study file. ``charter``: the text of charter.toml; ``plans``: encoded.

    Raises:
        CharterError: they do not belong together, as ``decode``.
    """
    data = _encoder.encode(_Contents(FORMAT, text, charter, plans, tensors, vector))
    decode(data)
    return data


def decode(data: bytes) -> StudyFile:
    """Reads a study file.

    Raises:
        CharterError: it is none, its charter has faults, or its plans or its model are not those that the charter
            names.
    """
    if len(data) > FILE_BYTES:
        raise CharterError(f"a study file of {len(data)} bytes is over the limit of {FILE_BYTES}")
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise CharterError("this is no study file of this version: `cloister.write_study` makes one") from None
    charter = parse_charter(found.charter, source="the charter in the study file")
    plans = {hashlib.sha256(plan).digest(): plan for plan in found.plans}
    wanted = {job.plan for job in charter.jobs}
    if plans.keys() != wanted:
        raise CharterError("the plans in the study file are not those of the jobs in its charter")
    _check_texts(found)
    for plan in found.plans:
        try:
            _check_tensors(found.tensors, encoding.decode(plan))
        except PlanError as fault:
            raise CharterError(f"a plan in the study file is none: {fault}") from None
    _check_faults(found, charter)
    vector, drawn = _first_model(found, charter)
    return StudyFile(
        text=found.text,
        charter_text=found.charter,
        charter=charter,
        plans=plans,
        tensors=found.tensors,
        vector=vector,
        drawn=drawn,
    )


def _check_texts(found: _Contents) -> None:
    """Names are for people, too, who see none that steers a terminal."""
    tensors = found.tensors
    named = [each.tensor for each in tensors.base]
    for name in [*named, *(each.name for each in tensors.all)]:
        if not is_visible(name):
            raise CharterError(
                f"the study file names a tensor {name!a}: give it a name that can be printed and seen, and write the"
                " file anew"
            )


def _check_tensors(tensors: Tensors, program: Program) -> None:
    """Whether the model's tensors are those of a plan, which are the model's that it was captured from.

    They are held against each other by name, kind, element type and shape, whether their values are there or not:
    what a page says of the model is otherwise anybody's word.
    """
    held = {each.names[0]: (TensorSpec(each.dtype, each.shape), False) for each in program.parameters}
    held |= {each.names[0]: (TensorSpec(each.dtype, each.shape), True) for each in program.buffers}
    told = {each.name: (each.spec, held.get(each.name, (None, True))[1]) for each in tensors.constants}
    told |= {each.name: (each.spec, each.buffer) for each in tensors.all if not isinstance(each, Constant)}
    differing = sorted(name for name in held.keys() | told.keys() if held.get(name) != told.get(name))
    if differing:
        raise CharterError(
            "the model in the study file has other tensors than a plan of it, which differ in"
            f" {', '.join(map(quoted, differing[:_NAMED]))}: capture the plan from the model that is written"
        )


def _check_faults(found: _Contents, charter: Charter) -> None:
    """Whether the model is one that the charter's jobs may have, as nodes will ask."""
    try:
        faults = tensor_faults(found.tensors, charter=charter)
        for plan in found.plans:
            faults += vector_faults(found.tensors, plan, charter=charter)
    except JobError as fault:
        faults = [str(fault)]
    if faults:
        raise CharterError(f"the model in the study file cannot be: {faults[0]}")


def _check_recipe(tensors: Tensors, charter: Charter) -> None:
    """Whether what is learned is what the recipe draws, also where it is too much to be drawn here."""
    told = {part.name: part.spec for part in tensors.parts}
    drawn = {entry.tensor: TensorSpec(entry.dtype, entry.shape) for entry in charter.recipe}
    differing = sorted(name for name in told.keys() | drawn.keys() if told.get(name) != drawn.get(name))
    if differing:
        raise CharterError(
            "it learns other tensors than the charter's recipe draws, which differ in"
            f" {', '.join(map(quoted, differing[:_NAMED]))}"
        )


def _first_model(found: _Contents, charter: Charter) -> tuple[bytes | None, bool]:
    """The first model's values, if they are known, and whether they were drawn; held against the charter's digest."""
    vector, tensors = found.vector, found.tensors
    try:
        length = tensors.layout.nbytes
        if charter.recipe:
            _check_recipe(tensors, charter)
        if drawn := bool(charter.recipe) and length <= VALUES_BYTES:
            vector = drawn_vector(charter, tensors).tobytes()
        if vector is not None and len(vector) != length:
            raise CharterError("the model's values in the study file are not as many as its tensors have")
    except CloisterError as fault:
        raise CharterError(f"the first model in the study file cannot be: {fault}") from None
    if vector is not None and tensors.name_of(vector) != charter.limits.first_model:
        raise CharterError(
            "the first model in the study file is not the charter's: its values, or its tensors, are others"
        )
    return vector, drawn
