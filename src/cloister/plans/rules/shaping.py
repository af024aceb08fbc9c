"""Operations that put the same entries otherwise: views, copies, and tensors end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloister.plans.calls import Call, Made, Rule, dims_of, position
from cloister.plans.concerns import Concern
from cloister.plans.facts import Value
from cloister.plans.layout import ROWS, Dim, Dims, Extent, UnclearError, dim_of, follows_batch, normal, reshape, unify

_LISTED: Final = 4096
"""More tensors than any operation may make at once."""


def _same(call: Call, dims: Dims, name: str = "self") -> list[Made]:
    """A view of an argument; it still counts rows if that is all it holds."""
    value = call.value(name)
    counts = value.counts and [dim for dim in dims if dim] == [(ROWS,)]
    return [Made(dims, value.kind, counts)]


def _view(call: Call) -> list[Made]:
    wanted = call.extents("size")
    return _same(call, reshape(call.dims("self"), wanted or ()))


def _transpose(call: Call) -> list[Made]:
    dims = list(call.dims("self"))
    if call.base == "t":
        if len(dims) > 2:
            raise UnclearError("it takes a matrix")
        return _same(call, tuple(reversed(dims)))
    one, other = call.at("dim0", len(dims)), call.at("dim1", len(dims))
    if dims:
        dims[one], dims[other] = dims[other], dims[one]
    return _same(call, tuple(dims))


def _permute(call: Call) -> list[Made]:
    dims = call.dims("self")
    order = [position(each, len(dims)) for each in call.extents("dims") or ()]
    if sorted(order) != list(range(len(dims))):
        raise UnclearError("it does not name each dimension once")
    return _same(call, tuple(dims[at] for at in order))


def _unsqueeze(call: Call) -> list[Made]:
    dims = list(call.dims("self"))
    dims.insert(call.at("dim", len(dims) + 1), ())
    return _same(call, tuple(dims))


def _squeeze(call: Call) -> list[Made]:
    dims = call.dims("self")
    chosen = call.positions("dim", len(dims))
    return _same(call, tuple(dim for at, dim in enumerate(dims) if dim or at not in chosen))


def _expand(call: Call) -> list[Made]:
    dims = call.dims("self")
    wanted = call.extents("size") or ()
    lacking = len(wanted) - len(dims)
    if lacking < 0:
        raise UnclearError("it has too few dimensions")
    padded: list[Dim] = [()] * lacking + list(dims)
    return _same(call, tuple(_stretched(dim, extent) for dim, extent in zip(padded, wanted, strict=True)))


def _stretched(dim: Dim, extent: Extent) -> Dim:
    return dim if extent == -1 else unify(dim, dim_of(extent))


def _repeat(call: Call) -> list[Made]:
    dims = call.dims("self")
    times = call.extents("repeats") or ()
    padded: list[Dim] = [()] * (len(times) - len(dims)) + list(dims)
    if len(padded) != len(times):
        raise UnclearError("it has too few dimensions")
    return [
        Made(tuple(normal((*dim_of(extent), *dim)) for extent, dim in zip(times, padded, strict=True)), call.kind())
    ]


def _cat(call: Call) -> list[Made]:
    values = call.values("tensors")
    shapes = [dims_of(value) for value in values]
    at = call.at("dim", len(shapes[0]), 0)
    if any(len(dims) != len(shapes[0]) for dims in shapes):
        raise UnclearError("it takes tensors of several ranks together")
    return [Made(_beside(call, values, shapes, at, _end_to_end(call, values, shapes, at)), call.kind())]


def _end_to_end(call: Call, values: Sequence[Value], shapes: Sequence[Dims], at: int) -> Dim | None:
    parts = [dims[at] if at < len(dims) else () for dims in shapes]
    if not any(map(follows_batch, parts)):
        return dim_of(sum(_whole(part) for part in parts))
    if all(part == parts[0] for part in parts):
        return normal((len(parts), *parts[0]))
    call.uneven(Concern.PLACE, *values, detail="it puts parts of a batch end to end")
    return None


def _beside(call: Call, values: Sequence[Value], shapes: Sequence[Dims], at: int, joined: Dim | None) -> Dims | None:
    if joined is None:
        return None
    found = list(shapes[0])
    for place in range(len(found)):
        for dims in shapes:
            found[place] = joined if place == at else unify(found[place], dims[place])
    return tuple(found)


def _stack(call: Call) -> list[Made]:
    values = call.values("tensors")
    shapes = [dims_of(value) for value in values]
    if any(len(dims) != len(shapes[0]) for dims in shapes):
        raise UnclearError("it takes tensors of several ranks together")
    found = list(call.together())
    found.insert(call.at("dim", len(found) + 1, 0), dim_of(len(values)))
    return [Made(tuple(found), call.kind())]


def _whole(dim: Dim) -> int:
    count = 1
    for atom in dim:
        if type(atom) is not int:
            raise UnclearError("it takes parts together of which some follow the batch")
        count *= atom
    return count


def _unbind(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    at = call.at("dim", len(dims), 0)
    if not dims or follows_batch(dims[at]):
        raise UnclearError("it takes rows apart")
    return [Made(dims[:at] + dims[at + 1 :], value.kind)] * min(_whole(dims[at]), _LISTED)


def _split(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    at = call.at("dim", len(dims), 0)
    if not dims or follows_batch(dims[at]):
        call.uneven(Concern.PICK, value, detail="it takes a batch apart")
        return [Made(None, value.kind)] * call.line.makes
    whole = _whole(dims[at])
    if call.base.endswith("with_sizes"):
        sizes = [each for each in call.extents("split_sizes") or () if type(each) is int]
    else:
        each = call.whole("split_size")
        if each < 1 or whole > each * _LISTED:
            raise UnclearError("it makes too many parts")
        sizes = [min(each, whole - begun) for begun in range(0, whole, each)]
    return [Made((*dims[:at], dim_of(each), *dims[at + 1 :]), value.kind) for each in sizes]


def _moves(call: Call) -> list[Made]:
    """Entries change their places: a sum over rows is as before, and what one row meets is another."""
    value = call.value("self")
    dims = dims_of(value)
    chosen = call.positions("dims", len(dims))
    if any(at < len(dims) and follows_batch(dims[at]) for at in chosen):
        call.uneven(Concern.PLACE, value, detail="it moves rows to other places")
    return [Made(dims, value.kind)]


def _pad(call: Call) -> list[Made]:
    value = call.value("self")
    dims = list(dims_of(value))
    pads = call.extents("pad") or ()
    for pair in range(len(pads) // 2):
        at = len(dims) - 1 - pair
        before, after = pads[2 * pair], pads[2 * pair + 1]
        if at < 0 or type(before) is not int or type(after) is not int:
            raise UnclearError("it pads by a number that follows the batch")
        if not before and not after:
            continue
        if follows_batch(dims[at]):
            call.uneven(Concern.PLACE, value, detail="it adds to the batch, or leaves some of it out")
            return [Made(None, value.kind)]
        dims[at] = dim_of(_whole(dims[at]) + before + after)
    return [Made(tuple(dims), value.kind)]


def _triangle(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    if any(map(follows_batch, dims[-2:])):
        call.uneven(Concern.PLACE, value)
    return [Made(dims, value.kind)]


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(("view", "_unsafe_view"), _view),
    **dict.fromkeys(("t", "transpose"), _transpose),
    "permute": _permute,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "repeat": _repeat,
    "cat": _cat,
    "stack": _stack,
    "unbind": _unbind,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _split),
    **dict.fromkeys(("flip", "roll"), _moves),
    "constant_pad_nd": _pad,
    **dict.fromkeys(("tril", "triu"), _triangle),
}
