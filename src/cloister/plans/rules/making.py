"""Operations that make tensors of nothing: the same for each row, random for each row, or counting."""

from __future__ import annotations

import math
from typing import Final

from cloister.plans.calls import LARGE, Call, Made, Rule
from cloister.plans.facts import Facts, Kind
from cloister.plans.layout import ROWS, UnclearError, dim_of, follows_batch, of_extents
from cloister.tensor.plan.program import Affine

_ALIKE: Final = "zeros ones full empty rand randn randint new_zeros new_ones new_full new_empty".split()


def _alike(call: Call) -> list[Made]:
    shown = call.maybe("self")
    if shown is not None:
        call.ignore(shown)  # only its element type enters
    number = call.number("fill_value")
    call.changes = Facts(large=number is not None and abs(number) >= LARGE)
    default: Kind = "int" if call.base == "randint" else "float"
    kind = call.dtype() or (shown.kind if shown is not None else default)
    return [Made(of_extents(call.extents("size") or ()), kind)]


def _scalar(call: Call) -> list[Made]:
    number = call.number("s")
    call.changes = Facts(large=number is not None and abs(number) >= LARGE)
    return [Made((), call.dtype() or "float")]


def _counting(call: Call) -> list[Made]:
    start, end, step = call.given("start"), call.given("end"), call.given("step")
    start, step = 0 if start is None else start, 1 if step is None else step
    kind = call.dtype() or ("float" if float in map(type, (start, end, step)) else "int")
    if type(end) is Affine and type(start) is int and step == 1:
        dim = dim_of(Affine(end.per, end.plus - start))
    else:
        numbers = [float(each) for each in (start, end, step) if type(each) in (int, float)]
        if len(numbers) != 3 or not numbers[2] or not all(map(math.isfinite, numbers)):
            raise UnclearError("it counts by numbers that follow the batch")
        dim = dim_of(max(0, math.ceil((numbers[1] - numbers[0]) / numbers[2])))
    call.place = follows_batch(dim)
    return [Made((dim,), kind, counts=dim == (ROWS,) and start == 0)]


def _evenly(call: Call) -> list[Made]:
    dim = dim_of(call.extent("steps"))
    call.place = follows_batch(dim)
    return [Made((dim,), call.dtype() or "float")]


def _shuffled(call: Call) -> list[Made]:
    return [Made((dim_of(call.extent("n")),), call.dtype() or "int")]


def _diagonal(call: Call) -> list[Made]:
    rows = call.extent("n")
    columns = rows if call.given("m") is None else call.extent("m")
    dims = of_extents((rows, columns))
    call.place = any(map(follows_batch, dims))
    return [Made(dims, call.dtype() or "float")]


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ALIKE, _alike),
    "scalar_tensor": _scalar,
    "arange": _counting,
    "linspace": _evenly,
    "randperm": _shuffled,
    "eye": _diagonal,
}
