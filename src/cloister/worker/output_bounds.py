"""How large a result can get whose size depends on values: checked against the session's limit before the operation
runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cloister.errors import HostileIndexError

_INDEX_BYTES = 8


def output_bytes(name: str, arguments: Mapping[str, Any]) -> int:
    """An upper bound, in bytes, of what the operation makes.

    Raises:
        HostileIndexError: a size among the values that cannot be meant.
        RuntimeError, LookupError, ValueError, TypeError, OverflowError: arguments that the operation itself would not
            take either.
    """
    match name.partition(".")[0]:
        case "aten::bincount":
            minlength: int = arguments.get("minlength", 0)
            return (_largest(arguments["self"]) + 1 + max(minlength, 0)) * _INDEX_BYTES
        case "aten::repeat_interleave":
            return _repeated_bytes(arguments["repeats"])
        case "aten::index":
            return _indexed_bytes(arguments["self"], arguments["indices"])
        case "aten::masked_select":
            return _masked_bytes(arguments["self"], arguments["mask"])
        case "aten::linalg_lstsq":
            return _solved_bytes(arguments["self"], arguments["b"])
        case "aten::_ctc_loss":
            return _aligned_bytes(arguments["log_probs"], arguments["target_lengths"])
    # Each element appears at most once in each output, and an index has one number for each dimension.
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    elements = sum(tensor.numel() for tensor in tensors)
    dimensions = max((tensor.dim() for tensor in tensors), default=1)
    item = max((tensor.element_size() for tensor in tensors), default=_INDEX_BYTES)
    return 3 * elements * max(dimensions, 1) * max(item, _INDEX_BYTES)


def _masked_bytes(whole: torch.Tensor, mask: torch.Tensor) -> int:
    """The two broadcast, and each element of the result is picked at most once."""
    shape = torch.broadcast_shapes(whole.shape, mask.shape)  # type: ignore[no-untyped-call]
    return math.prod(map(int, shape)) * whole.element_size()


def _repeated_bytes(repeats: torch.Tensor) -> int:
    """The output has one index for each repetition."""
    if repeats.numel() == 0:
        return 0
    if int(repeats.min()) < 0:
        raise HostileIndexError("repeats must not be negative")
    # In floating point: a sum of hostile integers must not wrap around.
    return int(repeats.sum(dtype=torch.float64)) * _INDEX_BYTES


def _indexed_bytes(source: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> int:
    """A mask picks each element at most once; an index of integers beside it, as often as it has elements."""
    size = source.numel() * source.element_size()
    for index in indices:
        if index is not None and index.dtype not in (torch.bool, torch.uint8):
            size *= max(index.numel(), 1)
    return size


def _solved_bytes(a: torch.Tensor, b: torch.Tensor) -> int:
    """For ``a`` of ``(..., m, n)`` and ``b`` of ``(..., m, k)``: a solution ``(..., n, k)``, residuals ``(..., k)``,
    singular values, at most ``(..., n)``, and ranks, which are indices."""
    batch, columns = math.prod(a.shape[:-2]), b.shape[-1] if b.dim() > 1 else 1
    numbers = a.shape[-1] * columns + columns + a.shape[-1]
    return batch * (numbers * a.element_size() + _INDEX_BYTES)


def _aligned_bytes(log_probs: torch.Tensor, target_lengths: torch.Tensor | Sequence[int]) -> int:
    """One number for each step, each sequence and each state of its alignment (Graves et al. 2006, section 4.1)."""
    longest = _largest(torch.as_tensor(target_lengths))
    steps, sequences = log_probs.shape[0], log_probs.shape[1] if log_probs.dim() > 2 else 1
    return (steps * sequences * (2 * longest + 1) + sequences) * log_probs.element_size()


def _largest(tensor: torch.Tensor) -> int:
    return max(int(tensor.max()), 0) if tensor.numel() else 0
