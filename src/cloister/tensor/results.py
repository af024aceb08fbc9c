"""What an operation returned, held against what was said of it before it ran.

The caller, the session's books and the checks of later operations go by the prediction. A kernel may not: a loss that
is reduced to one number keeps a memory of the size of its inputs, part of which nobody wrote; and some lay their result
out in another order than their shape functions say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import torch

from cloister.errors import OpRefusedError
from cloister.tensor.geometry import DTYPE_NAMES, Geometry, check_extents
from cloister.tensor.ops import Of, Op

_log: Final = logging.getLogger(__name__)


def fits(tensor: torch.Tensor, geometry: Geometry, memory: torch.UntypedStorage) -> bool:
    """Whether a tensor is as predicted; ``memory`` is its storage."""
    return (
        memory.nbytes() == geometry.storage_bytes
        and tensor.shape == geometry.shape
        and tensor.stride() == geometry.strides
        and tensor.dtype is geometry.dtype
        and (geometry.dense or tensor.storage_offset() == geometry.offset)
    )


def looks(tensor: torch.Tensor, geometry: Geometry) -> bool:
    """As ``fits``, wherever the elements lie."""
    return tensor.shape == geometry.shape and tensor.stride() == geometry.strides and tensor.dtype is geometry.dtype


def fresh(op: Op, returned: Any) -> list[torch.Tensor | None]:
    """The tensors that an operation made, flattened, without those that it was given and hands back."""
    found: list[torch.Tensor | None] = []
    for kind, value in zip(op.returns, returned if len(op.returns) > 1 else (returned,), strict=False):
        if kind is Of.TENSOR:
            found.append(value)
        elif kind is Of.TENSORS:
            found.extend(value)
    return found


def settled(op: Op, tensor: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A result as predicted: the tensor itself, or its elements in memory of the size and order that was predicted.

    Raises:
        OpRefusedError: it has another shape or element type, or is another view than was predicted.
    """
    if tensor.layout is not torch.strided or tensor.shape != geometry.shape or tensor.dtype is not geometry.dtype:
        raise unpredicted(op, tensor, geometry)
    placed = tensor.storage_offset() == geometry.offset or geometry.dense
    if placed and tensor.untyped_storage().nbytes() == geometry.storage_bytes:
        restrided = with_strides(tensor, geometry)
        if restrided is not None:
            return restrided
    if op.views is not None:
        raise unpredicted(op, tensor, geometry)
    try:
        return laid_out(geometry, tensor.device).copy_(tensor)
    except RuntimeError:  # to elements that share memory nothing can be copied
        raise unpredicted(op, tensor, geometry) from None


def with_strides(tensor: torch.Tensor, geometry: Geometry) -> torch.Tensor | None:
    """A tensor with the strides that were predicted, where that moves no element; else None."""
    strides = tensor.stride()
    if strides == geometry.strides:
        return tensor
    steps = zip(geometry.shape, strides, geometry.strides, strict=True)
    if geometry.nbytes and any(size > 1 and one != other for size, one, other in steps):
        return None
    return tensor.as_strided(geometry.shape, geometry.strides)


def all_settled(
    op: Op, found: Sequence[torch.Tensor | None], geometries: Sequence[Geometry | None]
) -> list[torch.Tensor | None]:
    """Several results as predicted; one that was to be absent is dropped.

    Raises:
        OpRefusedError: as ``settled``; or there are more or fewer.
    """
    if len(found) != len(geometries):
        raise unpredicted(op, None, None)
    made: list[torch.Tensor | None] = []
    for tensor, geometry in zip(found, geometries, strict=True):
        if geometry is None:
            made.append(None)
        elif tensor is None:
            raise unpredicted(op, None, geometry)
        else:
            made.append(settled(op, tensor, geometry))
    return made


def bounded(op: Op, found: Sequence[torch.Tensor | None], nbytes: int) -> list[torch.Tensor | None]:
    """Results whose shapes depend on values, each in memory of its own size.

    Raises:
        OpRefusedError: together they are larger than the ``nbytes`` foretold, or of a type or extent that does not
            travel.
    """
    made = [None if tensor is None else _alone(tensor) for tensor in found]
    there = [tensor for tensor in made if tensor is not None]
    for tensor in there:
        if tensor.dtype not in DTYPE_NAMES:
            raise unpredicted(op, tensor, None)
        check_extents(tensor.shape, tensor.stride())
    if sum(tensor.nbytes for tensor in there) > nbytes:
        raise unpredicted(op, None, None)
    return made


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def laid_out(geometry: Geometry, device: torch.device) -> torch.Tensor:
    """A tensor of exactly this geometry, alone in its memory, all of which is zero."""
    memory = torch.zeros(geometry.storage_bytes, dtype=torch.uint8, device=device).untyped_storage()
    whole = torch.empty(0, dtype=geometry.dtype, device=device)
    return whole.set_(memory, geometry.offset, geometry.shape, geometry.strides)


def unpredicted(op: Op, tensor: torch.Tensor | None, geometry: Geometry | None) -> OpRefusedError:
    """The error for a result that is not as predicted. It is also logged, since a prediction has to be mended."""
    came = "other tensors" if tensor is None else f"{list(tensor.shape)} of {tensor.dtype}"
    _log.warning("%s made %s where %s was predicted; it was dropped", op, came, geometry or "something else")
    return OpRefusedError(
        f"{op} made something of another shape or type than was predicted for these arguments, and it was dropped; "
        "please report the call that led here"
    )
