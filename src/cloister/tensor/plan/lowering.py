"""From three traces to one program: symbols for what follows the batch, no dead lines, nothing given written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from cloister.errors import PlanError
from cloister.tensor import call_sites, ops
from cloister.tensor.geometry import Geometry
from cloister.tensor.ops import Of, Param
from cloister.tensor.plan import following
from cloister.tensor.plan.aliases import Roots
from cloister.tensor.plan.batch import SIZES, fit
from cloister.tensor.plan.operands import references
from cloister.tensor.plan.program import (
    CONSTANT_BYTES,
    FORMAT,
    Buffer,
    Line,
    Metric,
    Parameter,
    Program,
    Rows,
)
from cloister.tensor.plan.tracing import Recorded, Trace
from cloister.tensor.plan.values import constant

_AT: Final = f"for batches of {SIZES[0]}, {SIZES[1]} and {SIZES[2]}"


@dataclass(frozen=True, slots=True)
class Captured:
    """One step at one batch size: the trace, and the numbers of what it hands out."""

    trace: Trace
    loss: int
    metrics: tuple[tuple[str, int], ...]
    gradients: tuple[int | None, ...]
    buffers: tuple[int, ...]


@dataclass(slots=True)
class _Draft:
    """The program while its values still have the recorder's numbers."""

    lines: list[Recorded]
    loss: int
    metrics: list[tuple[str, int]]
    gradients: list[int | None]
    updates: list[int | None]

    def outputs(self) -> list[int]:
        after = (value for value in (*self.gradients, *self.updates) if value is not None)
        return [self.loss, *(value for _, value in self.metrics), *after]

    def fresh(self, given: int) -> int:
        """The first number that no value has."""
        return max([given, *(number for line in self.lines for number in line.made)]) + 1

    def replace(self, numbers: Mapping[int, int]) -> None:
        """Has other values, by their numbers, in the place of some."""
        self.lines = [_renamed(line, numbers) for line in self.lines]
        self.loss = numbers.get(self.loss, self.loss)
        self.metrics = [(name, numbers.get(value, value)) for name, value in self.metrics]
        self.gradients = [value if value is None else numbers.get(value, value) for value in self.gradients]
        self.updates = [value if value is None else numbers.get(value, value) for value in self.updates]


def lower(
    captured: Sequence[Captured],
    *,
    parameters: Sequence[Parameter],
    buffers: Sequence[Buffer],
    rows: Sequence[Rows],
) -> Program:
    """The program that all three captures agree on.

    Raises:
        PlanError: they do not, or the step writes to what is not its own.
    """
    first = captured[0]
    draft = _Draft(_merged(captured), first.loss, list(first.metrics), list(first.gradients), list(first.buffers))
    given = len(parameters) + len(buffers) + len(rows)
    own = range(len(parameters), len(parameters) + len(buffers))
    _compute_constants(draft, captured, given=given)
    _copy_in_one(draft)
    written = _written(draft.lines, given)
    pairs = zip(draft.updates, own, strict=True)
    draft.updates = [None if after == before and before not in written else after for after, before in pairs]
    _own_what_is_written(draft, first.trace.passing, parameters=len(parameters), given=given)
    _part_outputs(draft, given)
    draft.lines = _live(draft, given)
    return _numbered(draft, first.trace.constants, parameters, buffers, rows)


# Three captures become one.


def _merged(captured: Sequence[Captured]) -> list[Recorded]:
    traces = [each.trace.lines for each in captured]
    merged = []
    for lines in zip(*traces, strict=False):
        first = lines[0]
        if any(line.op is not first.op or line.made != first.made for line in lines):
            raise PlanError(
                f"{call_sites.describe(first.site)}: the operations differ with the batch size ({first.op} and "
                f"{lines[1].op} or {lines[2].op}); a plan does the same for every batch"
            )
        args = tuple(
            _agreed(param, [line.args[at] for line in lines], first)
            for at, (param, _) in enumerate(zip(first.op.params, first.args, strict=False))
        )
        named = {
            name: _agreed(first.op.by_name[name], [line.named[name] for line in lines], first) for name in first.named
        }
        merged.append(replace(first, args=args, named=named))
    if len({len(lines) for lines in traces}) > 1 or any(
        (each.loss, each.metrics, each.gradients, each.buffers)
        != (captured[0].loss, captured[0].metrics, captured[0].gradients, captured[0].buffers)
        for each in captured
    ):
        longest = max(traces, key=len)
        place = call_sites.describe(longest[len(merged)].site if len(longest) > len(merged) else 0)
        raise PlanError(f"{place}: the number of operations or results depends on the batch size")
    return merged


def _compute_constants(draft: _Draft, captured: Sequence[Captured], *, given: int) -> None:
    """Constants that follow the batch size become lines, which come first."""
    tensors = [each.trace.constants for each in captured]
    if any(len(each) != len(tensors[0]) for each in tensors):
        raise PlanError("the step makes another number of tensors at each batch size")
    computed: list[Recorded] = []
    instead: dict[int, int] = {}
    fresh = draft.fresh(given)
    for at, same in enumerate(zip(*tensors, strict=True)):
        if sum(tensor.nbytes for tensor in same) > 3 * CONSTANT_BYTES or all(
            constant(tensor) == constant(same[0]) for tensor in same[1:]
        ):
            continue
        found = following.elements(same)
        if found is None:
            raise PlanError(
                "a tensor that the step makes from Python numbers differs with the batch size or from call to call; "
                "make it with torch.arange, torch.full and the like, or give it as a buffer"
            )
        computed += following.lines(same[0], found, fresh + len(computed))
        instead[-1 - at] = fresh + len(computed) - 1
    draft.replace(instead)
    draft.lines[:0] = computed


def _copy_in_one(draft: _Draft) -> None:
    """Autograd lays a gradient out as its parameter lies: it asks for memory, and writes all of it. One line that
    copies is the same, and can be vectorised."""
    to_copy = ops.by_name("aten::_to_copy")
    rows = to_copy.by_name["memory_format"].to_wire(torch.contiguous_format)
    lines: list[Recorded] = []
    for line in draft.lines:
        if lines and _is_filled(lines[-1], line):
            asked = lines.pop()
            named = {"dtype": asked.named["dtype"], "memory_format": rows}
            lines.append(Recorded(to_copy, asked.args[:1], named, asked.made, asked.site))
        else:
            lines.append(line)
    draft.lines = lines


def _is_filled(line: Recorded, then: Recorded) -> bool:
    """Whether memory in rows is asked for in the shape of a tensor, and that tensor is copied there."""
    if (line.op.name, then.op.name) != ("aten::new_empty_strided", "aten::copy_") or "dtype" not in line.named:
        return False
    like, shape, strides = line.args
    in_rows = all(type(extent) is int for extent in shape) and strides == Geometry.contiguous(torch.int, shape).strides
    return in_rows and then.args[:2] == (line.made[0], like)


def _agreed(param: Param, values: Sequence[Any], line: Recorded) -> Any:
    if param.of in (Of.TENSOR, Of.TENSORS) and not _is_number(values[0]):
        if any(value != values[0] for value in values):
            raise PlanError(
                f"{call_sites.describe(line.site)}: {line.op} takes other tensors as the batch size changes"
            )
        return values[0]
    if all(type(value) is tuple for value in values) and len({len(value) for value in values}) == 1:
        return tuple(_number(items, line) for items in zip(*values, strict=True))
    return _number(values, line)


def _is_number(value: Any) -> bool:
    return type(value) is tuple and len(value) == 1 and type(value[0]) in (bool, float, int)


def _number(values: Sequence[Any], line: Recorded) -> Any:
    if all(type(value) is int for value in values):
        found = fit(values)
        if found is not None:
            return found
    elif len({(type(value), repr(value)) for value in values}) == 1:
        return values[0]
    raise PlanError(
        f"{call_sites.describe(line.site)}: {line.op} is given {values[0]}, {values[1]} and {values[2]} {_AT}. A plan "
        "holds numbers that are fixed, or whole multiples of the batch size plus a fixed number; compute others with "
        "tensors (.mean() rather than * (1 / len(x)))"
    )


# Nothing that is given is written to, and nothing that is handed out is shared.


def _written(lines: Sequence[Recorded], given: int) -> set[int]:
    """What is given and changes within the step."""
    roots, found = Roots(given), set()
    for line in lines:
        if not _evaluates(line):
            found |= {roots.of(value) for param, value in references(line.op, line.args, line.named) if param.written}
        roots.follow(line.op, line.args, line.named, line.made)
    return found


def _evaluates(line: Recorded) -> bool:
    """Whether it is BatchNorm in ``eval`` mode, which only reads the statistics that it is said to write."""
    pairs = zip(line.op.params, line.args, strict=False)
    given = {**{param.name: value for param, value in pairs}, **line.named}
    return line.op.name == "aten::native_batch_norm" and not given["training"]


def _own_what_is_written(draft: _Draft, passing: set[int], *, parameters: int, given: int) -> None:
    """Buffers, batch and constants that the step writes to are copied first; the copy is written, and is what comes
    out."""
    roots = Roots(given)
    copies: dict[int, int] = {}
    fresh = draft.fresh(given)
    for line in draft.lines:
        for param, value in references(line.op, line.args, line.named):
            root = roots.of(value)
            if not param.written or root >= given or root in copies:
                continue
            if 0 <= root < parameters:
                raise PlanError(
                    f"{call_sites.describe(line.site)}: {line.op} writes to a parameter; only optimizers do"
                )
            if root < 0 and root not in passing:
                raise PlanError(
                    f"{call_sites.describe(line.site)}: {line.op} writes to a tensor from outside of the step; make it "
                    "a buffer of the model (register_buffer), so that it is kept from step to step"
                )
            copies[root] = fresh + len(copies)
        roots.follow(line.op, line.args, line.named, line.made)
    clone = ops.by_name("aten::clone")
    first = [Recorded(clone, (old,), {}, (new,), 0) for old, new in copies.items()]
    draft.replace(copies)
    draft.lines[:0] = first


def _part_outputs(draft: _Draft, given: int) -> None:
    """What a step hands out is new memory, and each gradient and buffer its own."""
    roots = Roots(given)
    for line in draft.lines:
        roots.follow(line.op, line.args, line.named, line.made)
    clone = ops.by_name("aten::clone")
    taken: set[int] = set()
    fresh = draft.fresh(given)

    def parted(value: int, *, alone: bool) -> int:
        nonlocal fresh
        root = roots.of(value)
        if root >= given and not (alone and root in taken):
            taken.add(root)
            return value
        draft.lines.append(Recorded(clone, (value,), {}, (fresh,), 0))
        fresh += 1
        return fresh - 1

    draft.loss = parted(draft.loss, alone=False)
    draft.metrics = [(name, parted(value, alone=False)) for name, value in draft.metrics]
    draft.gradients = [value if value is None else parted(value, alone=True) for value in draft.gradients]
    draft.updates = [value if value is None else parted(value, alone=True) for value in draft.updates]


def _live(draft: _Draft, given: int) -> list[Recorded]:
    """The lines that an output depends on, writes to what it is made of included."""
    roots = Roots(given)
    for line in draft.lines:
        roots.follow(line.op, line.args, line.named, line.made)
    needed = {roots.of(value) for value in draft.outputs()}
    kept = []
    for line in reversed(draft.lines):
        named = list(references(line.op, line.args, line.named))
        touched = {roots.of(value) for value in line.made}
        touched |= {roots.of(value) for param, value in named if param.written}
        if touched & needed:
            needed |= {roots.of(value) for _, value in named}
            kept.append(line)
    return kept[::-1]


# Final numbers.


def _renamed(line: Recorded, numbers: Mapping[int, int]) -> Recorded:
    def renamed(param: Param, value: Any) -> Any:
        if param.of is Of.TENSOR and type(value) is int:
            return numbers.get(value, value)
        if param.of is Of.TENSORS and value is not None:
            return tuple(item if item is None else numbers.get(item, item) for item in value)
        return value

    args = tuple(renamed(param, value) for param, value in zip(line.op.params, line.args, strict=False))
    return replace(
        line, args=args, named={name: renamed(line.op.by_name[name], value) for name, value in line.named.items()}
    )


def _numbered(
    draft: _Draft,
    tensors: Sequence[Any],
    parameters: Sequence[Parameter],
    buffers: Sequence[Buffer],
    rows: Sequence[Rows],
) -> Program:
    given = len(parameters) + len(buffers) + len(rows)
    used = {value for line in draft.lines for _, value in references(line.op, line.args, line.named) if value < 0}
    numbers = {value: given + at for at, value in enumerate(sorted(used, reverse=True))}
    constants = [tensors[-1 - value] for value in sorted(used, reverse=True)]
    if sum(tensor.nbytes for tensor in constants) > CONSTANT_BYTES:
        raise PlanError(
            f"the tensors that the step uses but was not given are over {CONSTANT_BYTES} bytes; make them buffers of "
            "the model (register_buffer)"
        )
    fresh = given + len(constants)
    lines = []
    for line in draft.lines:
        final = _renamed(line, numbers)
        lines.append(Line(line.op.name, final.args, dict(final.named), len(line.made)))
        for number in line.made:
            numbers[number] = fresh
            fresh += 1

    def new(value: int | None) -> int | None:
        return None if value is None else numbers[value]

    return Program(
        format=FORMAT,
        parameters=tuple(parameters),
        buffers=tuple(buffers),
        batch=tuple(rows),
        constants=tuple(map(constant, constants)),
        lines=tuple(lines),
        loss=numbers[draft.loss],
        metrics=tuple(Metric(name, numbers[value]) for name, value in sorted(draft.metrics)),
        gradients=tuple(map(new, draft.gradients)),
        updates=tuple(map(new, draft.updates)),
    )
