"""What a program's values will look like for a batch of some size, and what they will weigh: found without values."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cloister.errors import CloisterError, HostileIndexError, PlanError
from cloister.tensor import ops
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES, Geometry, check_extents
from cloister.tensor.inference import add_literal, outline_of
from cloister.tensor.ops import Of, Op, Param
from cloister.tensor.plan import safety
from cloister.tensor.plan.lifetimes import Lifetimes
from cloister.tensor.plan.operands import operand
from cloister.tensor.plan.program import Line, Program
from cloister.tensor.plan.proofs import Proofs
from cloister.wire.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Shapes:
    """``geometries`` has an entry for each value, None for one that PyTorch leaves out; ``watched`` are the lines whose
    arguments' values must be looked at before each run, ``proven`` those of which lines above them, run on a CPU, make
    sure; ``peak`` is the most memory that a step holds at once, inputs included, in bytes."""

    geometries: tuple[Geometry | None, ...]
    watched: frozenset[int]
    attested: frozenset[int]
    peak: int


def infer(program: Program, operations: Sequence[Op], lifetimes: Lifetimes, proofs: Proofs, size: int) -> Shapes:
    """The shapes of every value for a batch of ``size``.

    Raises:
        PlanError: some operation would not take its arguments.
    """
    run = _Run(size, proofs)
    for dtype, shape in given(program, size):
        run.take(_geometry(dtype, shape))
    for at, (op, line) in enumerate(zip(operations, program.lines, strict=True)):
        try:
            run.follow(op, line, at)
        except CloisterError as fault:
            raise PlanError(f"line {at}, {op}, for a batch of {size}: {fault}") from None
        except Exception as fault:  # noqa: BLE001 - PyTorch finds shapes in Python, which raises whatever it likes
            raise PlanError(f"line {at}, {op}, for a batch of {size}: {fault}") from None
    geometries = tuple(run.geometries)
    peak = peak_of(program, operations, lifetimes, geometries, among=range(len(geometries)))
    return Shapes(geometries, frozenset(run.watched), frozenset(run.attested), peak)


def peak_of(
    program: Program,
    operations: Sequence[Op],
    lifetimes: Lifetimes,
    geometries: Sequence[Geometry | None],
    *,
    among: Container[int],
) -> int:
    """The most memory that a step holds at once of the values ``among`` all, inputs included, in bytes."""
    weights = [0 if each is None or at not in among else each.storage_bytes for at, each in enumerate(geometries)]
    held = peak = sum(weights[: program.inputs])
    alive: dict[int, int] = {}
    following = program.inputs
    for op, line, freed in zip(operations, program.lines, lifetimes.freed, strict=True):
        if op.views is None:
            alive.update({value: weights[value] for value in range(following, following + line.makes)})
            held += sum(weights[following : following + line.makes])
        following += line.makes
        peak = max(peak, held)
        held -= sum(alive.pop(root, 0) for root in freed)
    return peak


def given(program: Program, size: int) -> list[tuple[str, tuple[int, ...]]]:
    """Element type and shape of every input, in order, for a batch of ``size``."""
    held = [(each.dtype, each.shape) for each in program.held]
    rows = [(each.dtype, (size, *each.row)) for each in program.batch]
    return held + rows + [(each.dtype, each.shape) for each in program.constants]


def _check_variance(op: Op, named: dict[str, Any]) -> None:
    """Refuses what PyTorch refuses above its operators, where a plan does not come by: a variance of single values."""
    if op.name == "aten::native_batch_norm" and named["training"]:
        inputs = named["input"]
        if inputs.dim() > 1 and inputs.numel() == inputs.shape[1]:
            raise PlanError("BatchNorm cannot be trained on one value for each channel; it needs more than one row")


def _geometry(dtype: str, shape: tuple[int, ...]) -> Geometry:
    try:
        TensorSpec(dtype, shape).nbytes()
        check_extents(shape)
    except CloisterError as fault:
        raise PlanError(str(fault)) from None
    return Geometry.contiguous(DTYPES[dtype], shape)


class _Run:
    """One pass over the lines, with stand-ins on the meta device for the values."""

    def __init__(self, size: int, proofs: Proofs) -> None:
        self.size = size
        self._proofs = proofs
        self.attested: list[int] = []
        self.geometries: list[Geometry | None] = []
        self.watched: list[int] = []
        self._stand_ins: list[torch.Tensor | None] = []
        self._geometry_of: dict[int, Geometry] = {}

    def take(self, geometry: Geometry | None) -> None:
        self.geometries.append(geometry)
        if geometry is None:
            self._stand_ins.append(None)
            return
        stand_in = torch.empty_strided(geometry.shape, geometry.strides, dtype=geometry.dtype, device="meta")
        self._stand_ins.append(stand_in)
        self._geometry_of[id(stand_in)] = geometry

    def follow(self, op: Op, line: Line, at: int) -> None:
        key: list[object] = []
        args = [self._operand(param, value, key) for param, value in zip(op.params, line.args, strict=False)]
        kwargs = {}
        for name, value in line.named.items():
            key.append(name)
            kwargs[name] = self._operand(op.by_name[name], value, key)
        # Always, and before the cache is asked: others fill it too, and not all of them come by these checks.
        safety.installed().check_form(op, args, kwargs)
        named = ops.arguments_by_name(op, args, kwargs)
        _check_variance(op, named)
        looks = op.guard and self._depends_on_values(op, named)
        known = tuple(key)
        outline = outline_of(op, known, args, kwargs, lambda tensor: self._geometry_of[id(tensor)])
        if outline.data_dependent:
            raise PlanError("the shape of its result depends on values")
        if line.makes != len(outline.geometries):
            raise PlanError(f"it makes {len(outline.geometries)} values here, not {line.makes}")
        if not all(geometry is None or geometry.dtype in DTYPE_NAMES for geometry in outline.geometries):
            op.outlines.pop(known, None)
            raise PlanError("it would make a tensor of an element type that plans do not know")
        if looks:
            (self.attested if self._proofs.cover(at, self.geometries) else self.watched).append(at)
        for geometry in outline.geometries:
            self.take(geometry)

    def _depends_on_values(self, op: Op, named: dict[str, Any]) -> bool:
        """Whether the guard of an operation has to see values; what it says of the shapes of stand-ins holds."""
        try:
            safety.installed().check_values(op, named)
        except HostileIndexError:
            raise
        except Exception:  # noqa: BLE001 - whatever PyTorch raises where a stand-in's value is asked for
            return True
        return False

    def _operand(self, param: Param, value: Any, key: list[object]) -> Any:
        found = operand(param, value, self.size, self._stand_in)
        of = param.of
        if found is None:
            key.append(None)
        elif of is Of.TENSOR:
            tensor = isinstance(found, torch.Tensor)
            key.append(self._geometry_of[id(found)] if tensor else type(found))
        elif of is Of.TENSORS:
            key.append(tuple([None if item is None else self._geometry_of[id(item)] for item in found]))
        else:
            add_literal(key, param, value, found)
        return found

    def _stand_in(self, number: int) -> torch.Tensor:
        found = self._stand_ins[number] if number < len(self._stand_ins) else None
        if found is None:
            raise PlanError(f"value %{number} is not there")
        return found
