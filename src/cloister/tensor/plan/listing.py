"""A plan as text: one line an operation, with the shapes of what it makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cloister.tensor.geometry import DTYPE_NAMES, Geometry
from cloister.tensor.ops import Of, Param
from cloister.tensor.plan.batch import SIZES, fit
from cloister.tensor.plan.checking import Checked, shapes_of
from cloister.tensor.plan.program import Buffer, Parameter, Program


def listing(program: Program, checked: Checked, digest: bytes) -> str:
    """The text; it names values %0, %1, ... and the batch size b."""
    return "\n".join(_lines(program, checked, digest)) + "\n"


def _lines(program: Program, checked: Checked, digest: bytes) -> Iterator[str]:
    seen = [shapes_of(program, checked, size).geometries for size in SIZES]
    shown = [_shown(geometries) for geometries in zip(*seen, strict=True)]
    yield f"plan sha256:{digest.hex()}"
    number = 0
    for title, inputs in (
        ("parameters", [(", ".join(each.names), "" if each.trained else "  fixed") for each in program.parameters]),
        ("buffers", [(", ".join(each.names), "") for each in program.buffers]),
        ("batch of b", [("", "") for _ in program.batch]),
        ("constants", [("", "") for _ in program.constants]),
    ):
        if inputs:
            yield f"{title}:"
        for name, note in inputs:
            yield f"    %{number}: {shown[number]}{f'  {name}' if name else ''}{note}"
            number += 1
    yield "step:"
    for op, line in zip(checked.operations, program.lines, strict=True):
        made = range(number, number := number + line.makes)
        left = ", ".join(f"%{value}: {shown[value]}" for value in made)
        args = [_argument(param, value) for param, value in zip(op.params, line.args, strict=False)]
        args += [f"{name}={_argument(op.by_name[name], value)}" for name, value in line.named.items()]
        yield f"    {left}{' = ' if left else ''}{op.name.removeprefix('aten::')}({', '.join(args)})"
    yield f"loss: %{program.loss}"
    if program.metrics:
        yield "metrics: " + ", ".join(f"{metric.name} %{metric.value}" for metric in program.metrics)
    yield from _named("gradients", program.parameters, program.gradients)
    yield from _named("new buffers", program.buffers, program.updates)


def _named(title: str, held: Sequence[Parameter | Buffer], values: Sequence[int | None]) -> Iterator[str]:
    found = [f"    {each.names[0]}: %{value}" for each, value in zip(held, values, strict=True) if value is not None]
    yield from [f"{title}:", *found] if found else []


def _shown(geometries: Sequence[Geometry | None]) -> str:
    first = geometries[0]
    if first is None or any(other is None for other in geometries):
        return "absent"
    shapes = [geometry.shape for geometry in geometries if geometry is not None]
    extents = [fit(extents) for extents in zip(*shapes, strict=True)]
    name = DTYPE_NAMES[first.dtype]
    return f"{name}[{', '.join('?' if extent is None else str(extent) for extent in extents)}]"


def _argument(param: Param, value: Any) -> str:
    if param.of is Of.TENSOR and type(value) is int:
        return f"%{value}"
    if param.of is Of.TENSOR and type(value) is tuple and len(value) == 1:
        return str(value[0])
    if type(value) is tuple:
        sign = "%" if param.of is Of.TENSORS else ""
        return f"[{', '.join('None' if item is None else f'{sign}{item}' for item in value)}]"
    return str(value)
