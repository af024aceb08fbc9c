"""What a plan carries beside the model's parameters: buffers that remember from step to step, and constants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from cloister.plans.concerns import Severity
from cloister.plans.facts import kind_of
from cloister.plans.following import STATES, Followed
from cloister.plans.results import Result, named
from cloister.tensor.plan.program import Constant, Program
from cloister.wire.tensors import ITEM_BYTES
from cloister.wire.text import quoted

_AS_DATA: Final = 8
"""A constant of so many rows' bytes is told on its own."""

Told = tuple[Severity, str, str]


def carried(program: Program, found: Followed, handed: list[Result]) -> Iterator[Told]:
    """What to tell of buffers and constants."""
    yield from _buffers(program, found, handed)
    yield from _constants(program)


def _buffers(program: Program, found: Followed, handed: list[Result]) -> Iterator[Told]:
    updated = {result.place: result for result in handed if result.what == "buffer"}
    for at, buffer in enumerate(program.buffers):
        bit = 1 << min(at, STATES - 1)
        readers = [
            result for result in handed if result.state & bit and not (result.what == "buffer" and result.place == at)
        ]
        if not readers:
            continue
        where, update = f"buffer {quoted(buffer.names[0])}", updated.get(at)
        if update is None:
            if kind_of(buffer.dtype) in ("int", "bool"):
                yield (
                    "note",
                    where,
                    f"the step reads these fixed whole numbers, and never changes them: {named(readers)}",
                )
        elif update.private:
            yield "note", where, f"it remembers earlier batches, and enters {named(readers)}"
        else:
            text = "it changes by itself from step to step, so that the plan can do one thing in one step and another "
            yield "warning", where, f"{text}in the next; it enters {named(readers)}"


def _constants(program: Program) -> Iterator[Told]:
    if not program.constants:
        return
    total = sum(len(constant.data) for constant in program.constants)
    count = len(program.constants)
    yield "note", "constants", f"the plan brings {count} tensor{'s' if count > 1 else ''} along, {total} bytes in all"
    row = sum(_bytes(rows.dtype, rows.row) for rows in program.batch)
    rows_alike = {rows.row for rows in program.batch if math.prod(rows.row) > 1}
    for at, constant in enumerate(program.constants):
        if constant.shape[1:] in rows_alike and constant.shape[0]:
            yield (
                "warning",
                f"constant {at}",
                f"it has the shape of rows ({_spec(constant)}), which rows can be held against",
            )
        elif len(constant.data) >= _AS_DATA * max(row, 1):
            yield (
                "note",
                f"constant {at}",
                f"it is as large as {len(constant.data) // max(row, 1)} rows ({_spec(constant)})",
            )


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return ITEM_BYTES.get(dtype, 1) * math.prod(shape)


def _spec(constant: Constant) -> str:
    return f"{constant.dtype}[{', '.join(map(str, constant.shape))}]"
