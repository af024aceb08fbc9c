"""A program: what a plan says, as plain data.

Values have numbers. The inputs come first, in this order: parameters, buffers, the tensors of the batch, constants.
Then each line numbers what it makes, in order. A line can therefore name only what stands above it, and makes each
number once: there is no way to write a cycle.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from cloister.errors import PlanError
from cloister.wire.limits import ARGUMENTS, INPUTS, LIST_ITEMS, METRICS, NAME_CHARS, SIZE
from cloister.wire.tensors import DType, Shape

FORMAT: Final = "cloister plan 2"
LINES: Final = 1 << 16
CONSTANT_BYTES: Final = 1 << 20
"""All constants of a plan together, in bytes. Larger tensors belong into buffers, which the model brings along."""

LOSS: Final = "loss"
CLIPPED: Final = "clipped"
UPDATE_NORM: Final = "update_norm"
RESERVED: Final = (LOSS, CLIPPED, UPDATE_NORM)
"""Metrics that are reported of every training, and that no plan may call its own: the loss; whether the update was
clipped, 1 or 0; and the norm of its parameters before that."""

Name = Annotated[str, Meta(min_length=1, max_length=4 * NAME_CHARS)]
Word = Annotated[str, Meta(max_length=NAME_CHARS, pattern=r"\A[^\W\d]\w*\Z")]
Id = Annotated[int, Meta(ge=0, lt=1 << 24)]
Integer = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Step = Annotated[int, Meta(ge=-SIZE, le=SIZE)]


class Affine(Struct, frozen=True, forbid_unknown_fields=True):
    """An integer that follows the batch size b: ``per * b + plus``."""

    per: Step
    plus: Step

    def __str__(self) -> str:
        scaled = {1: "b", -1: "-b"}.get(self.per, f"{self.per}*b")
        return scaled if not self.plus else f"{scaled} {'-' if self.plus < 0 else '+'} {abs(self.plus)}"


Item: TypeAlias = bool | Integer | float | Affine | None
Argument: TypeAlias = (
    bool | Integer | float | str | Affine | Annotated[tuple[Item, ...], Meta(max_length=LIST_ITEMS)] | None
)
"""One argument of a line. As on the wire its meaning is its schema's: where a tensor belongs, an integer is a value's
number, and a number of its own is a list of one."""


class Parameter(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A parameter of the model: all names under which the model knows it, and whether it has a gradient."""

    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=LIST_ITEMS)]
    dtype: DType
    shape: Shape
    trained: bool


class Buffer(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A buffer of the model: state that a step reads and may replace."""

    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=LIST_ITEMS)]
    dtype: DType
    shape: Shape


class Rows(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A tensor of the batch: what the loss function calls it, so that an owner can tell which column is meant, and its
    shape without the first dimension, which is the batch's."""

    name: Word
    dtype: DType
    row: Shape


class Constant(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A tensor whose values are part of the plan, row-major and little-endian."""

    dtype: DType
    shape: Shape
    data: bytes


class Line(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One operation, by its name in the table; it makes ``makes`` values, those that PyTorch leaves out included."""

    op: Annotated[str, Meta(max_length=NAME_CHARS)]
    args: Annotated[tuple[Argument, ...], Meta(max_length=ARGUMENTS)]
    named: Annotated[dict[Annotated[str, Meta(max_length=NAME_CHARS)], Argument], Meta(max_length=ARGUMENTS)]
    makes: Annotated[int, Meta(ge=0, le=LIST_ITEMS)]


class Metric(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A number that a step reports beside the loss."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]
    value: Id


class Program(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Everything that matters of a plan.

    ``gradients`` has one entry for each parameter (None: it has none), ``updates`` one for each buffer (None: the step
    leaves it as it is).
    """

    format: Annotated[str, Meta(max_length=len(FORMAT))]
    parameters: Annotated[tuple[Parameter, ...], Meta(max_length=INPUTS)]
    buffers: Annotated[tuple[Buffer, ...], Meta(max_length=INPUTS)]
    batch: Annotated[tuple[Rows, ...], Meta(min_length=1, max_length=METRICS)]
    constants: Annotated[tuple[Constant, ...], Meta(max_length=INPUTS)]
    lines: Annotated[tuple[Line, ...], Meta(max_length=LINES)]
    loss: Id
    metrics: Annotated[tuple[Metric, ...], Meta(max_length=METRICS)]
    gradients: Annotated[tuple[Id | None, ...], Meta(max_length=INPUTS)]
    updates: Annotated[tuple[Id | None, ...], Meta(max_length=INPUTS)]

    @property
    def inputs(self) -> int:
        """How many values are given rather than made."""
        return len(self.parameters) + len(self.buffers) + len(self.batch) + len(self.constants)

    @property
    def held(self) -> tuple[Parameter | Buffer, ...]:
        """What the model brings along."""
        return (*self.parameters, *self.buffers)

    @property
    def after(self) -> tuple[Id | None, ...]:
        """For each of ``held``, its gradient or its new value."""
        return (*self.gradients, *self.updates)

    def outputs(self) -> list[int]:
        """The values that a step hands out: loss, metrics, gradients, new buffers."""
        after = [value for value in self.after if value is not None]
        return [self.loss, *(metric.value for metric in self.metrics), *after]


def check_after(program: Program) -> None:
    """
    Raises:
        PlanError: there is not one gradient for each parameter and one update for each buffer, or None.
    """
    if len(program.gradients) != len(program.parameters) or len(program.updates) != len(program.buffers):
        raise PlanError("there must be one gradient for each parameter and one update for each buffer, or None")
