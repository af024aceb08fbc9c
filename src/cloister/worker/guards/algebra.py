"""Distances, Fourier transforms, factorisations, division, and results that are written into a given tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeGuard

import torch
from torch import Tensor

from cloister.worker.guards.call import Call, Guard, each


def _broadcast(*shapes: Sequence[int]) -> list[int] | None:
    """The common shape, last extents first compared; ``None`` if there is none."""
    extents = [{shape[-at] for shape in shapes if len(shape) >= at} - {1} for at in range(max(map(len, shapes)), 0, -1)]
    return None if any(len(extent) > 1 for extent in extents) else [next(iter(extent), 1) for extent in extents]


def _pdist_backward(call: Call) -> None:
    rows = call.tensor("self").shape[0] if call.tensor("self").dim() == 2 else call.refuse("self", "a matrix")
    if rows == 0:
        call.refuse("self", "not empty")
    for argument in ("grad", "pdist"):
        call.shaped(argument, [rows * (rows - 1) // 2])


def _cdist_backward(call: Call) -> None:
    one, two = call.tensor("x1"), call.tensor("x2")
    if one.dim() < 2 or two.dim() < 2 or one.shape[-1] != two.shape[-1]:
        call.refuse("x2", "of as many columns as x1")
    batch = _broadcast(one.shape[:-2], two.shape[:-2])
    if batch is None:
        call.refuse("x2", "of a batch that goes with x1")
    for argument in ("grad", "cdist"):
        call.shaped(argument, [*batch, one.shape[-2], two.shape[-2]])


def _transform(call: Call) -> None:
    """Dimensions are counted from the front and named once."""
    dims, rank = call.integers("dim"), call.tensor("self").dim()
    if not dims or len(set(dims)) != len(dims) or not all(0 <= dim < rank for dim in dims):
        call.refuse("dim", f"different ones, at least 0 and less than {rank}")


def _transform_to_real(call: Call) -> None:
    """Of the last dimension, only the half that is not redundant."""
    _transform(call)
    size, last = call.integer("last_dim_size"), call.integers("dim")[-1]
    if size < 1 or call.tensor("self").shape[last] != size // 2 + 1:
        call.refuse("last_dim_size", "what the last dimension is half of")


def _lu_unpack(call: Call) -> None:
    factors, pivots = call.tensor("LU_data"), call.tensor("LU_pivots")
    if factors.dim() < 2:
        call.refuse("LU_data", "of at least two dimensions")
    call.shaped("LU_pivots", [*factors.shape[:-2], min(factors.shape[-2:])])
    if pivots.numel():
        call.within("LU_pivots", 1, factors.shape[-2] + 1)


def _least_squares(call: Call) -> None:
    if call.tensor("b").numel() == 0:
        call.refuse("b", "not empty")


def _truncated_division(call: Call) -> None:
    """The least integer divided by -1 has no answer; the processor raises a signal."""
    if call.argument("rounding_mode") != "trunc":
        return
    dividend, divisor = call.argument("self"), call.argument("other")
    if not (_is_whole(dividend) and _is_whole(divisor)):
        return
    kind = torch.result_type(dividend, divisor)
    if kind.is_signed and _holds(divisor, -1) and _holds(dividend, torch.iinfo(kind).min):
        call.refuse("other", "not -1 where self holds the least integer of its type")


def _is_whole(value: object) -> TypeGuard[Tensor | int]:
    return isinstance(value, int) or (
        isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    )


def _holds(value: Tensor | int, number: int) -> bool:
    return bool((value == number).any()) if isinstance(value, Tensor) else value == number


def _dirichlet_grad(call: Call) -> None:
    """Shapes that merely broadcast change the result's, and leave its memory unwritten."""
    for argument in ("alpha", "total"):
        call.shaped(argument, call.tensor("x").shape)


def _median(call: Call) -> None:
    """Where a dimension is one element repeated, the kernel reads on beyond it."""
    values, dim = call.tensor("self"), call.integer("dim")
    if -values.dim() <= dim < values.dim() and values.shape[dim] > 1 and values.stride(dim) == 0:
        call.refuse("self", "not expanded along dim; clone it first")


def _neg_view(call: Call) -> None:
    """Marks a tensor as negated; where its element type has no negation, nothing can be made of it any more."""
    if call.tensor("self").dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64):
        call.refuse("self", "of an element type that can be negated")


def _keeps_out(*inputs: str) -> Guard:
    """The result must fit: growing ``out`` would show memory that nobody wrote."""

    def guard(call: Call) -> None:
        shape = _broadcast(*(call.tensor(argument).shape for argument in inputs))
        if shape is None:
            call.refuse(inputs[-1], f"of a shape that goes with {inputs[0]}")
        call.shaped("out", shape)

    return guard


def _eye(call: Call) -> None:
    call.shaped("out", [call.integer("n"), call.integer("m")])


GUARDS: Final[Mapping[str, Guard]] = {
    "aten::_pdist_backward": _pdist_backward,
    "aten::_cdist_backward": _cdist_backward,
    **each(["_fft_c2c", "_fft_r2c"], _transform),
    "aten::_fft_c2r": _transform_to_real,
    "aten::lu_unpack": _lu_unpack,
    "aten::_dirichlet_grad": _dirichlet_grad,
    "aten::_neg_view": _neg_view,
    **each(["median.dim", "nanmedian.dim"], _median),
    "aten::linalg_lstsq": _least_squares,
    **each(["div.Scalar_mode", "div.Tensor_mode", "div_.Scalar_mode", "div_.Tensor_mode"], _truncated_division),
    **each(["div.out", "maximum.out"], _keeps_out("self", "other")),
    "aten::eye.m_out": _eye,
}
