"""A plan as text: one line an operation, with what is known of the shapes that it makes. It imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cloister.tensor import schemas
from cloister.tensor.plan.program import Buffer, Line, Parameter, Program
from cloister.wire.text import quoted


def listing(program: Program, shown: Sequence[str], digest: bytes) -> str:
    """The text; it names values %0, %1, ... and the batch size b. ``shown`` says of each value what it looks like."""
    return "\n".join(_lines(program, shown, digest)) + "\n"


def _lines(program: Program, shown: Sequence[str], digest: bytes) -> Iterator[str]:
    yield f"plan sha256:{digest.hex()}"
    number = 0
    for title, inputs in (
        ("parameters", [(_called(each), "" if each.trained else "  fixed") for each in program.parameters]),
        ("buffers", [(_called(each), "") for each in program.buffers]),
        ("batch of b", [(each.name, "") for each in program.batch]),
        ("constants", [("", "") for _ in program.constants]),
    ):
        if inputs:
            yield f"{title}:"
        for name, note in inputs:
            yield f"    %{number}: {shown[number]}{f'  {name}' if name else ''}{note}"
            number += 1
    yield "step:"
    for line in program.lines:
        made = range(number, number := number + line.makes)
        left = ", ".join(f"%{value}: {shown[value]}" for value in made)
        name = quoted(line.op.removeprefix("aten::"))
        yield f"    {left}{' = ' if left else ''}{name}({', '.join(_arguments(line))})"
    yield f"loss: %{program.loss}"
    if program.metrics:
        yield "metrics: " + ", ".join(f"{quoted(metric.name)} %{metric.value}" for metric in program.metrics)
    yield from _named("gradients", program.parameters, program.gradients)
    yield from _named("new buffers", program.buffers, program.updates)


def _called(held: Parameter | Buffer) -> str:
    return ", ".join(map(quoted, held.names))


def _named(title: str, held: Sequence[Parameter | Buffer], values: Sequence[int | None]) -> Iterator[str]:
    found = [
        f"    {quoted(each.names[0])}: %{value}" for each, value in zip(held, values, strict=True) if value is not None
    ]
    yield from [f"{title}:", *found] if found else []


def _arguments(line: Line) -> Iterator[str]:
    schema = schemas.find(line.op)
    places = () if schema is None else tuple(each for each in schema.arguments if not each.by_name_only)
    of = {each.name: each.of for each in schema.arguments} if schema is not None else {}
    for at, value in enumerate(line.args):
        yield _argument(places[at].of if at < len(places) else "other", value)
    for name, value in line.named.items():
        yield f"{quoted(name)}={_argument(of.get(name, 'other'), value)}"


def _argument(of: schemas.Of, value: Any) -> str:
    if of == "tensor" and type(value) is int:
        return f"%{value}"
    if of == "tensor" and type(value) is tuple and len(value) == 1:
        return str(value[0])
    if type(value) is tuple:
        sign = "%" if of == "tensors" else ""
        return f"[{', '.join('None' if item is None else f'{sign}{item}' for item in value)}]"
    return quoted(value) if type(value) is str and value else str(value)
