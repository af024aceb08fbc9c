"""Operations that pick entries, by a place in the plan or by indices: within a row they may, among rows not."""

from __future__ import annotations

from typing import Final

from cloister.plans.calls import Call, Made, Rule, across_rows, dims_of, private
from cloister.plans.concerns import Concern
from cloister.plans.facts import Value
from cloister.plans.layout import (
    ROWS,
    Dim,
    Dims,
    Extent,
    UnclearError,
    broadcast,
    dim_of,
    follows_batch,
    has_rows,
    size,
)
from cloister.tensor.plan.program import Affine

_END: Final = (1 << 63) - 1


def _select(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    at = call.at("dim", len(dims))
    if across_rows(value, at):
        call.uneven(Concern.PICK, value)
    return [Made(dims[:at] + dims[at + 1 :], value.kind)]


def _slice(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    at = call.at("dim", len(dims), 0)
    if at >= len(dims):
        raise UnclearError("it cuts a number")
    start, end, step = call.extent("start", 0), call.extent("end", _END), call.whole("step", 1)
    if _whole_slice(start, end, step, size(dims[at])):
        return [Made(dims, value.kind)]
    cut = _cut(call, value, dims[at], (start, end, step))
    return [Made(None if cut is None else (*dims[:at], cut, *dims[at + 1 :]), value.kind)]


def _whole_slice(start: Extent, end: Extent, step: int, length: Extent) -> bool:
    return start == 0 and step == 1 and end in (length, _END)


def _cut(call: Call, value: Value, dim: Dim, cut: tuple[Extent, Extent, int]) -> Dim | None:
    """What is left of a dimension that is cut."""
    start, end, step = cut
    length = size(dim)
    if type(length) is int and type(start) is int and type(end) is int and step > 0:
        return dim_of(len(range(*slice(start, end, step).indices(length))))
    call.uneven(Concern.PICK, value)
    if type(start) is not int or step != 1:
        return None
    if isinstance(end, Affine):  # of a table, as many entries as there are rows
        return dim_of(Affine(end.per, end.plus - start)) if start >= 0 and type(length) is int else None
    if end == _END:
        return dim_of(-start if start < 0 else Affine(length.per, length.plus - start))  # type: ignore[union-attr]
    return dim_of(end - start) if (end < 0) == (start < 0) and end > start else None


def _put_back(call: Call) -> list[Made]:
    """The gradient of a selection or a slice: zeros, and the gradient where it was picked."""
    gradient = call.value("grad_output")
    extents = call.extents("input_sizes") or ()
    at = call.at("dim", len(extents))
    dims = list(dims_of(gradient))
    whole = dim_of(extents[at])
    if call.base == "select_backward":
        dims.insert(at, whole)
    elif len(dims) != len(extents):
        raise UnclearError("it puts entries where none were picked")
    all_of_it = call.base == "slice_backward" and _whole_slice(
        call.extent("start"), call.extent("end"), call.whole("step"), size(whole)
    )
    if not all_of_it:
        dims[at] = whole
        if follows_batch(whole):
            call.uneven(Concern.PICK, gradient)
    return [Made(tuple(dims), gradient.kind)]


def _gather(call: Call) -> list[Made]:
    table, index = call.value("self"), call.value("index")
    dims = dims_of(index)
    at = call.at("dim", len(dims))
    _in_line(dims_of(table), dims, at)
    if across_rows(table, at):
        call.uneven(Concern.PICK, table, index)
    _looked_up(call, table, index)
    return [Made(dims, table.kind)]


def _looked_up(call: Call, table: Value, *indices: Value) -> None:
    """What a row's number finds in a table of fixed numbers is the answer to a question about that row."""
    if not table.facts.columns and not table.facts.model and any(map(private, indices)):
        call.asks = True


def _in_line(table: Dims, index: Dims, at: int) -> None:
    """Beside the dimension that is followed, row meets row."""
    if len(table) != len(index):
        raise UnclearError("its indices have another rank")
    for place, (one, other) in enumerate(zip(table, index, strict=True)):
        if place != at and (follows_batch(one) or follows_batch(other)) and one != other:
            raise UnclearError("its indices do not stand in line with its rows")


def _scatter(call: Call) -> list[Made]:
    table, index = call.value("self"), call.value("index")
    dims = dims_of(table)
    at = call.at("dim", len(dims))
    source = call.maybe("src")
    _in_line(dims, dims_of(index), at)
    if source is not None:
        _in_line(dims_of(source), dims_of(index), -1)
    adds = call.base == "scatter_add" or call.given("reduce") in ("add", "sum", "mean")
    if across_rows(table, at) or (across_rows(index, at) and not adds):
        call.uneven(Concern.PICK, *call.tensors())
    if across_rows(index, at) and not across_rows(table, at):
        _added_by_key(call, index)
    if source is None:
        _looked_up(call, table, index)
    return [Made(dims, table.kind)]


def _added_by_key(call: Call, *indices: Value) -> None:
    """A sum for each key that rows bring along: of a key that one row alone has, it is that row."""
    columns = 0
    for index in indices:
        columns |= index.facts.columns if private(index) else 0
    if columns:
        call.tell(Concern.FILTER, "it adds up rows by a number that they hold", columns)


def _index(call: Call) -> list[Made]:
    table = call.value("self")
    dims, leading, rest, picked = _followed(call, table)
    place = leading if picked is not None else 0
    _looked_up(call, table, *(index for index in call.maybe_values("indices") if index is not None))
    return [Made((*rest[:place], *dims, *rest[place:]), table.kind)]


def _followed(call: Call, table: Value) -> tuple[Dims, int, Dims, int | None]:
    """For indices into a table: the dimensions of the indices, where those go, the dimensions that no index follows,
    and the first that one does (None: those with an index do not stand side by side)."""
    dims = dims_of(table)
    given = call.maybe_values("indices")
    if len(given) > len(dims) or not any(given):
        raise UnclearError("it has more indices than dimensions, or none")
    at = [place for place, index in enumerate(given) if index is not None]
    indices = [index for index in given if index is not None]
    if any(index.kind != "int" for index in indices):
        raise UnclearError("it picks by yes and no")
    for place, index in zip(at, indices, strict=True):
        if not follows_batch(dims[place]):
            continue
        if index.counts and dims[place] == (ROWS,):
            call.ignore(index)  # row by row, each its own
        else:
            call.uneven(Concern.PICK, table, *indices)
    side_by_side = at == list(range(at[0], at[0] + len(at)))
    rest = tuple(dim for place, dim in enumerate(dims) if place not in at)
    return broadcast([dims_of(index) for index in indices]), at[0], rest, at[0] if side_by_side else None


def _index_put(call: Call) -> list[Made]:
    table, values = call.value("self"), call.value("values")
    given = [index for index in call.maybe_values("indices") if index is not None]
    if len(given) == 1 and given[0].kind == "bool":
        return _mask_put(call, table, given[0], values)
    dims, leading, rest, picked = _followed(call, table)
    place = leading if picked is not None else 0
    broadcast([(*rest[:place], *dims, *rest[place:]), dims_of(values)])
    counted = any(index.counts for index in given)
    if has_rows(dims) and not counted and not call.flag("accumulate"):
        call.uneven(Concern.PICK, values, *given)
    if has_rows(dims) and not counted:
        _added_by_key(call, *given)
    return [Made(dims_of(table), table.kind)]


def _mask_put(call: Call, table: Value, mask: Value, values: Value) -> list[Made]:
    if dims_of(values) or dims_of(mask) != dims_of(table)[: len(dims_of(mask))]:
        raise UnclearError("it puts values by yes and no")
    return [Made(dims_of(table), table.kind)]


def _along(call: Call) -> list[Made]:
    """Indices along one dimension: they pick of a table, or add to one."""
    table, index = call.value("self"), call.value("index")
    dims = dims_of(table)
    at = call.at("dim", len(dims))
    if across_rows(table, at):
        call.uneven(Concern.PICK, *call.tensors())
    if call.base != "index_select":
        if across_rows(index, 0):
            _added_by_key(call, index)
        return [Made(dims, table.kind)]
    _looked_up(call, table, index)
    one = dims_of(index)
    return [Made((*dims[:at], *(one or ((),)), *dims[at + 1 :]), table.kind)]


def _embedding(call: Call) -> list[Made]:
    table, indices = call.value("weight"), call.value("indices")
    if across_rows(table, 0):
        call.uneven(Concern.PICK, table, indices)
    call.lenient = table.memory.parameter is not None
    _looked_up(call, table, indices)
    return [Made((*dims_of(indices), *dims_of(table)[1:]), table.kind)]


def _embedding_backward(call: Call) -> list[Made]:
    """Adds up the gradients of each entry of the table, over all rows."""
    gradient, indices = call.value("grad_output"), call.value("indices")
    dims = dims_of(gradient)
    broadcast([dims[:-1], dims_of(indices)])
    call.lenient = True
    if private(indices):
        call.remarks.add("embedding")
    return [Made((dim_of(call.whole("num_weights")), *dims[-1:]), gradient.kind)]


RULES: Final[dict[str, Rule]] = {
    "select": _select,
    "slice": _slice,
    **dict.fromkeys(("select_backward", "slice_backward"), _put_back),
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), _scatter),
    "index": _index,
    "index_put": _index_put,
    **dict.fromkeys(("index_select", "index_add"), _along),
    "embedding": _embedding,
    "embedding_dense_backward": _embedding_backward,
}
