"""Programs written by hand: a few lines on rows of four numbers and a label."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from cloister.tensor.plan.program import FORMAT, Affine, Argument, Buffer, Constant, Line, Parameter, Program, Rows

B = Affine(1, 0)
W, COUNT, X, Y, TABLE = range(5)
FIRST = 5


def program(*lines: Line, **changes: Any) -> Program:
    """A step of these lines on rows ``X`` of four numbers and labels ``Y``; it hands out what the last one makes."""
    made = sum(line.makes for line in lines)
    written = Program(
        format=FORMAT,
        parameters=(Parameter(("w",), "float32", (4, 4), True),),
        buffers=(Buffer(("count",), "int64", ()),),
        batch=(Rows("x", "float32", (4,)), Rows("y", "int64", ())),
        constants=(Constant("float32", (64,), b"\0" * 256),),
        lines=lines,
        loss=FIRST + made - 1,
        metrics=(),
        gradients=(None,),
        updates=(None,),
    )
    return replace(written, **changes)


def op(name: str, *args: Argument, makes: int = 1, **named: Argument) -> Line:
    return Line(f"aten::{name}", args, named, makes)
