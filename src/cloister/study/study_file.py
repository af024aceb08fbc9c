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
from cloister.errors import CharterError, CloisterError, PlanError
from cloister.ledger.first_model import drawn_vector
from cloister.ledger.job import FORMAT as JOB_FORMAT
from cloister.ledger.job import Constant, Job, Part, describe
from cloister.tables import TEXT_BYTES
from cloister.tensor.plan import encoding
from cloister.tensor.plan.encoding import PLAN_BYTES
from cloister.tensor.plan.program import Program
from cloister.wire.fields import Message
from cloister.wire.layout import Layout, lay_out
from cloister.wire.limits import INPUTS

FORMAT: Final[Literal["cloister study 1"]] = "cloister study 1"
FILE_BYTES: Final = 1 << 30
"""The longest file that is read: values of a larger model are left out of it."""
VALUES_BYTES: Final = FILE_BYTES // 2
"""The longest first model whose values are in a study file, or are drawn for one."""
PLANS: Final = 64


class _Contents(Message, frozen=True):
    format: Literal["cloister study 1"]
    text: Annotated[str, Meta(max_length=TEXT_BYTES)]
    """What the study is for, in its researchers' words."""
    charter: Annotated[str, Meta(max_length=TEXT_BYTES)]
    """charter.toml."""
    plans: Annotated[tuple[Annotated[bytes, Meta(max_length=PLAN_BYTES)], ...], Meta(max_length=PLANS)]
    parts: Annotated[tuple[Part, ...], Meta(max_length=2 * INPUTS)]
    constants: Annotated[tuple[Constant, ...], Meta(max_length=INPUTS)]
    vector: bytes | None
    """The first model's values; None where they are drawn, published, or too many."""


@dataclass(frozen=True)
class StudyFile:
    """A study file whose parts belong together."""

    text: str
    charter_text: str
    charter: Charter
    plans: Mapping[bytes, bytes]
    """The encoded plans of the charter's jobs, by their digests."""
    parts: tuple[Part, ...]
    constants: tuple[Constant, ...]
    vector: bytes | None
    """The first model's values, if they are in the file, or are drawn and not too many; None otherwise."""

    def program(self, plan: bytes) -> Program:
        """A plan as data, not checked."""
        return encoding.decode(self.plans[plan])

    @property
    def layout(self) -> Layout:
        """Where the values of each tensor stand in the model's vector."""
        return lay_out({part.name: part.spec for part in self.parts})


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_decoder: Final = msgspec.msgpack.Decoder(_Contents)


def encode(
    *,
    text: str,
    charter: str,
    plans: tuple[bytes, ...],
    parts: tuple[Part, ...],
    constants: tuple[Constant, ...],
    vector: bytes | None,
) -> bytes:
    """The bytes of a study file. ``charter``: the text of charter.toml; ``plans``: encoded.

    Raises:
        CharterError: they do not belong together, as ``decode``.
    """
    data = _encoder.encode(_Contents(FORMAT, text, charter, plans, parts, constants, vector))
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
    for plan in found.plans:
        try:
            encoding.decode(plan)
        except PlanError as fault:
            raise CharterError(f"a plan in the study file is none: {fault}") from None
    return StudyFile(
        text=found.text,
        charter_text=found.charter,
        charter=charter,
        plans=plans,
        parts=found.parts,
        constants=found.constants,
        vector=_first_model(found, charter),
    )


def _first_model(found: _Contents, charter: Charter) -> bytes | None:
    """The first model's values, if they are known: from the file, or drawn; held against the charter's digest."""
    vector = found.vector
    try:
        length = lay_out({part.name: part.spec for part in found.parts}).nbytes
        if charter.recipe and length <= VALUES_BYTES:
            job = Job(JOB_FORMAT, charter.digest, "", b"", found.parts, found.constants, bytes(32))
            vector = drawn_vector(charter, job).tobytes()
        if vector is not None and len(vector) != length:
            raise CharterError("the model's values in the study file are not as many as its tensors have")
    except CloisterError as fault:
        raise CharterError(f"the first model in the study file cannot be: {fault}") from None
    if vector is not None and describe(found.parts, found.constants, vector) != charter.limits.first_model:
        raise CharterError(
            "the first model in the study file is not the charter's: its values, or its tensors, are others"
        )
    return vector
