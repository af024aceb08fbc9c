"""Everything that is looked at before a plan may run. The plan is treated as hostile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from cloister.errors import PlanError
from cloister.tensor.geometry import DTYPES, Geometry
from cloister.tensor.ops import Of, Op
from cloister.tensor.plan.aliases import Roots
from cloister.tensor.plan.batch import SIZES
from cloister.tensor.plan.lifetimes import Lifetimes, lifetimes
from cloister.tensor.plan.operands import operation, references
from cloister.tensor.plan.program import RESERVED, Program, check_after
from cloister.tensor.plan.proofs import Proofs
from cloister.tensor.plan.shapes import Shapes, given, infer
from cloister.tensor.plan.values import tensor

CHECKED: Final = SIZES[:2]
"""The batch sizes for which shapes are worked out when a plan is loaded; others, when the first such batch comes."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A program that may run, with what was found out about it."""

    operations: tuple[Op, ...]
    lifetimes: Lifetimes
    proofs: Proofs
    constants: tuple[torch.Tensor, ...]
    memory_bytes: int


def check(program: Program, *, memory_bytes: int) -> Checked:
    """Checks operations, arguments, order, writes, constants, results, and at two batch sizes shapes and memory.

    Raises:
        PlanError: it says what, and in which line.
    """
    _check_names(program)
    operations = _operations(program)
    roots = _followed(program, operations)
    _check_outputs(program, roots)
    checked = Checked(
        operations,
        lifetimes(program, operations, roots),
        Proofs(program, operations, roots),
        tuple(map(tensor, program.constants)),
        memory_bytes,
    )
    for size in CHECKED:
        shapes_of(program, checked, size)
    return checked


def shapes_of(program: Program, checked: Checked, size: int) -> Shapes:
    """The shapes for a batch of ``size``, with those of the results and the memory limit checked.

    Raises:
        PlanError: the plan does not fit such a batch, or would take too much memory.
    """
    shapes = infer(program, checked.operations, checked.lifetimes, checked.proofs, size)
    if shapes.peak > checked.memory_bytes:
        raise PlanError(
            f"the plan takes {shapes.peak} bytes for a batch of {size}; the limit is {checked.memory_bytes}"
        )
    _check_results(program, shapes.geometries)
    return shapes


def _check_names(program: Program) -> None:
    names = [name for each in program.held for name in each.names]
    if len(set(names)) != len(names):
        raise PlanError("two parameters or buffers have one name")
    metrics = [metric.name for metric in program.metrics]
    if metrics != sorted(set(metrics) - set(RESERVED)):
        raise PlanError(f"metrics need names of their own, in order, and none is called {' or '.join(RESERVED)}")
    check_after(program)
    for dtype, _ in given(program, CHECKED[0]):
        if dtype not in DTYPES:
            raise PlanError(f"plans know no element type {dtype!r}")


def _operations(program: Program) -> tuple[Op, ...]:
    found = []
    for at, line in enumerate(program.lines):
        try:
            found.append(operation(line))
        except PlanError as fault:
            raise PlanError(f"line {at}: {fault}") from None
    return tuple(found)


def _followed(program: Program, operations: Sequence[Op]) -> Roots:
    """The roots of all values; in passing, that lines name only what is there, and write only to what they made."""
    roots = Roots(program.inputs)
    following = program.inputs
    for at, (op, line) in enumerate(zip(operations, program.lines, strict=True)):
        for param, value in _references(at, op, line):
            if not 0 <= value < following:
                raise PlanError(f"line {at}, {op}: there is no value %{value} yet")
            if param.written and roots.of(value) < program.inputs:
                raise PlanError(f"line {at}, {op}: it writes to an input, %{roots.of(value)}")
        made = range(following, following := following + line.makes)
        roots.follow(op, line.args, line.named, made)
    for value in program.outputs():
        if value >= following:
            raise PlanError(f"there is no value %{value} to hand out")
    return roots


def _references(at: int, op: Op, line: Any) -> list[tuple[Any, int]]:
    for param, value in (
        *zip(op.params, line.args, strict=False),
        *((op.by_name[n], v) for n, v in line.named.items()),
    ):
        if param.of is Of.TENSORS and not (value is None or type(value) is tuple):
            raise PlanError(f"line {at}, {op}: argument {param.name!r} is no list of tensors")
    return list(references(op, line.args, line.named))


def _check_outputs(program: Program, roots: Roots) -> None:
    for value in program.outputs():
        if roots.of(value) < program.inputs:
            raise PlanError(f"the step hands out an input, %{value}")
    alone = [roots.of(value) for value in program.after if value is not None]
    others = {roots.of(value) for value in (program.loss, *(metric.value for metric in program.metrics))}
    if len(set(alone)) != len(alone) or others & set(alone):
        raise PlanError("gradients and new buffers may share memory with nothing else that the step hands out")
    for parameter, gradient in zip(program.parameters, program.gradients, strict=True):
        if gradient is not None and not parameter.trained:
            raise PlanError(f"{parameter.names[0]} is not trained and has a gradient")


def _check_results(program: Program, geometries: Sequence[Geometry | None]) -> None:
    loss = geometries[program.loss]
    if loss is None or loss.shape or not loss.dtype.is_floating_point:
        raise PlanError("the loss must be one real number")
    for metric in program.metrics:
        found = geometries[metric.value]
        if found is None or found.shape or found.dtype.is_complex:
            raise PlanError(f"metric {metric.name!r} must be one real number")
    for held, value in zip(program.held, program.after, strict=True):
        if value is None:
            continue
        found = geometries[value]
        if found is None or found.shape != held.shape or found.dtype is not DTYPES[held.dtype]:
            raise PlanError(f"{held.names[0]} gets a value of another shape or type")
