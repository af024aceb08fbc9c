"""Lines made ready for the loop of a replay.

An instruction is ``(call, read, out, outs, dead)``: ``read`` takes the arguments from the list of values, ``out`` is
the slot of a single result (0: none), ``outs`` are those of several, ``dead`` the slots to empty. What ``call`` returns
is as it was predicted, or it raises: the step's memory, and what may be read of it, rest on that. Slot 0 holds run seed
and step, value n lies in slot n + 1, and literals lie in slots of their own behind the values, so that one
``itemgetter`` collects all arguments at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

import torch

from cloister.tensor import ops, results
from cloister.tensor.geometry import Geometry
from cloister.tensor.ops import Of, Op
from cloister.tensor.plan import safety
from cloister.tensor.plan.checking import Checked
from cloister.tensor.plan.operands import operand
from cloister.tensor.plan.program import Line, Program
from cloister.tensor.plan.seeds import seed_of
from cloister.tensor.plan.shapes import Shapes

Call: TypeAlias = Callable[..., Any]
Read: TypeAlias = Callable[[list[Any]], Sequence[Any]]
Instruction: TypeAlias = tuple[Call, Read, int, tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class Prepared:
    """``code`` in order, ``blank`` the list of values before a step, ``lines`` the line of each ``read``, by its id."""

    code: list[Instruction] = field(default_factory=list)
    blank: list[Any] = field(default_factory=list)
    lines: dict[int, int] = field(default_factory=dict)

    def trust(self) -> None:
        """After a step in which every result was held against its shape: holds only those further that it changed.

        The rest need no other look, however often they run, for batches of one size. No shape of a plan depends on
        values, so each line has the same shapes, strides and numbers before it, and makes of them what it made.
        """
        self.code = [
            (call.call if isinstance(call, HeldTo) and not call.changed else call, read, out, outs, dead)
            for call, read, out, outs, dead in self.code
        ]


def prepare(
    program: Program, checked: Checked, shapes: Shapes, *, size: int, device: torch.device, mapped: bool = False
) -> Prepared:
    """The instructions for batches of ``size`` on ``device``; ``mapped`` where they run within ``vmap``, in which
    tensors do not show what lies behind them."""
    watched = shapes.watched if device.type == "cpu" else shapes.watched | shapes.attested
    prepared = Prepared(blank=[None] * (len(shapes.geometries) + 1))
    first = program.inputs - len(program.constants)
    for at, constant in enumerate(checked.constants, first + 1):
        prepared.blank[at] = constant.to(device)
    following = program.inputs
    for at, (op, line) in enumerate(zip(checked.operations, program.lines, strict=True)):
        made = tuple(range(following + 1, following + 1 + line.makes))
        following += line.makes
        dead = tuple(value + 1 for value in checked.lifetimes.dropped[at])
        maker = _Maker(prepared, op, line, size=size, device=device)
        expected = None if mapped else shapes.geometries[made[0] - 1 : made[-1]] if made else ()
        maker.add(at, watched=at in watched, made=made, dead=dead, expected=expected)
    return prepared


class _Maker:
    """Makes the instruction of one line."""

    def __init__(self, prepared: Prepared, op: Op, line: Line, *, size: int, device: torch.device) -> None:
        self.prepared, self.op, self.line, self.size, self.device = prepared, op, line, size, device
        self.lists: list[tuple[int, Read]] = []

    def add(
        self,
        at: int,
        *,
        watched: bool,
        made: tuple[int, ...],
        dead: tuple[int, ...],
        expected: Sequence[Geometry | None] | None,
    ) -> None:
        op = self.op
        slots, names, fixed = self._arguments()
        if op.takes_device:
            fixed["device"] = self.device
        call: Call = op.kernel
        if names or fixed:
            call = _with_names(call, names, fixed)
        if watched or safety.installed().leaves_gaps(op):
            call = self._watched(call, names, fixed, check=watched)
        if any(kind is not Of.TENSOR for kind in op.returns) and op.returns not in ((Of.TENSORS,), (0,)):
            call = _flattened(call, op)
        if op.random:
            call, slots = self._seeded(call, at), [0, *slots]
        read = _reader(slots)
        single = op.returns == (Of.TENSOR,)
        if made and expected is not None:
            call = HeldTo(call, op, expected, single=single)
        self.prepared.lines[id(read)] = at
        # A list among the arguments is put together first, and forgotten with what the line uses last.
        self.prepared.code += [(_listed, items, slot, (), ()) for slot, items in self.lists]
        dead += tuple(slot for slot, _ in self.lists)
        self.prepared.code.append((call, read, made[0] if single else 0, () if single else made, dead))

    def _arguments(self) -> tuple[list[int], tuple[str, ...], dict[str, Any]]:
        """The slots of the arguments, the names of the last of them, and the named literals."""
        slots = [self._slot(param, value) for param, value in zip(self.op.params, self.line.args, strict=False)]
        names: list[str] = []
        fixed: dict[str, Any] = {}
        for name, value in self.line.named.items():
            param = self.op.by_name[name]
            if param.of is Of.TENSORS or (param.of is Of.TENSOR and type(value) is int):
                slots.append(self._slot(param, value))
                names.append(name)
            elif param.of not in (Of.UNSENT, Of.GENERATOR):
                fixed[name] = operand(param, value, self.size, _no_tensor)
        return slots, tuple(names), fixed

    def _slot(self, param: ops.Param, value: Any) -> int:
        if param.of is Of.TENSOR and type(value) is int:
            return value + 1
        if param.of is Of.TENSORS and value is not None:
            items = [self._literal(None) if item is None else item + 1 for item in value]
            slot = self._literal(None)
            self.lists.append((slot, _reader(items)))
            return slot
        return self._literal(operand(param, value, self.size, _no_tensor))

    def _literal(self, value: Any) -> int:
        self.prepared.blank.append(value)
        return len(self.prepared.blank) - 1

    def _watched(self, call: Call, names: Sequence[str], fixed: Mapping[str, Any], *, check: bool) -> Call:
        op, care = self.op, safety.installed()
        positional = [param.name for param in op.params[: len(self.line.args)]]
        order = (*positional, *names)

        def watched(*args: Any) -> Any:
            named = {**dict(zip(order, args, strict=True)), **fixed}
            if check:
                care.check_values(op, named)
            returned = call(*args)
            care.close_gaps(op, named, returned)
            return returned

        return watched

    def _seeded(self, call: Call, at: int) -> Call:
        seeded, device = safety.installed().seeded, self.device

        def drawn(clock: tuple[int, int], *args: Any) -> Any:
            with seeded(seed_of(clock[0], step=clock[1], line=at), device):
                return call(*args)

        return drawn


def _with_names(call: Call, names: Sequence[str], fixed: dict[str, Any]) -> Call:
    if not names:
        return partial(call, **fixed)
    count = len(names)

    def named(*args: Any) -> Any:
        return call(*args[:-count], **dict(zip(names, args[-count:], strict=True)), **fixed)

    return named


class HeldTo:
    """A line's call, whose results are as predicted or are refused. ``changed``: they had to be laid out anew.

    What a view is a view of may be an input, which may be a part of something larger; of a view only shape, strides and
    element type are asked.
    """

    def __init__(self, call: Call, op: Op, geometries: Sequence[Geometry | None], *, single: bool) -> None:
        self.call, self.op, self.geometries, self.single = call, op, geometries, single
        self.changed = False

    def __call__(self, *args: Any) -> Any:
        returned = self.call(*args)
        found = [returned] if self.single else list(returned)
        if self.op.views is None:
            made = results.all_settled(self.op, found, self.geometries)
        else:
            made = [self._view(*pair) for pair in zip(found, self.geometries, strict=True)]
        self.changed |= any(one is not other for one, other in zip(found, made, strict=True))
        return made[0] if self.single else made

    def _view(self, tensor: torch.Tensor, geometry: Geometry | None) -> torch.Tensor:
        same = geometry is not None and tensor.shape == geometry.shape and tensor.dtype is geometry.dtype
        made = results.with_strides(tensor, geometry) if geometry is not None and same else None
        if made is None:
            raise results.unpredicted(self.op, tensor, geometry)
        return made


def _flattened(call: Call, op: Op) -> Call:
    """For returns of several kinds: what is new among them, as one list."""

    def flattened(*args: Any) -> list[Any]:
        return results.fresh(op, call(*args))

    return flattened


def _reader(slots: Sequence[int]) -> Read:
    """Takes the values of these slots, as a sequence."""
    if len(slots) == 1:
        return itemgetter(slice(slots[0], slots[0] + 1))
    return itemgetter(*slots) if slots else itemgetter(slice(0, 0))


def _listed(*items: Any) -> list[Any]:
    return list(items)


def _no_tensor(number: int) -> Any:
    raise AssertionError(f"%{number} is a tensor")
