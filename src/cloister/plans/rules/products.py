"""Products of matrices: over the batch they sum, as the gradient of a layer does; of two batches they make pairs."""

from __future__ import annotations

from typing import Final

from cloister.plans.calls import Call, Made, Rule, dims_of, private
from cloister.plans.facts import Value
from cloister.plans.layout import Dim, Dims, UnclearError, broadcast, size, unify

_ADDS: Final = "addmm addmv baddbmm".split()


def _product(call: Call) -> list[Made]:
    names = {"mm": ("self", "mat2"), "bmm": ("self", "mat2"), "mv": ("self", "vec")}.get(call.base, ("self", "tensor"))
    if call.base == "vdot":
        names = ("self", "other")
    return [Made(_multiplied(call, call.value(names[0]), call.value(names[1])), call.kind())]


def _added(call: Call) -> list[Made]:
    names = {"addmm": ("mat1", "mat2"), "addmv": ("mat", "vec"), "baddbmm": ("batch1", "batch2")}[call.base]
    dims = _multiplied(call, call.value(names[0]), call.value(names[1]))
    return [Made(broadcast([dims, call.dims("self")]), call.kind())]


def _multiplied(call: Call, one: Value, other: Value) -> Dims:
    left, right = dims_of(one), dims_of(other)
    shape = (len(left), len(right))
    if shape not in {(1, 1), (2, 2), (2, 1), (3, 3)}:
        raise UnclearError("it multiplies tensors of other ranks")
    _in_line(left[-1], right[0] if len(right) < 3 else right[1])
    _note_width(call, one, other)
    if shape == (1, 1):
        return ()
    if shape == (2, 1):
        return left[:1]
    if shape == (2, 2):
        return left[0], right[1]
    _in_line(left[0], right[0])
    return left[0], left[1], right[2]


def _in_line(one: Dim, other: Dim) -> None:
    unify(one, other)
    if size(one) != size(other):
        raise UnclearError("it multiplies what does not fit")


def _note_width(call: Call, one: Value, other: Value) -> None:
    """A layer: rows, times a parameter. It has as many units as the product has columns."""
    for rows, weights, at in ((one, other, -1), (other, one, -2)):
        parameter = weights.memory.parameter
        dims = dims_of(weights)
        if parameter is not None and private(rows) and len(dims) > 1:
            units = size(dims[at])
            call.width = (parameter, units if type(units) is int else 0)


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot"), _product),
    **dict.fromkeys(_ADDS, _added),
}
