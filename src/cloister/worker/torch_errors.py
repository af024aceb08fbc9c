"""PyTorch's exceptions as errors that may travel."""

from __future__ import annotations

from typing import Final

import torch
from torch.utils._pytree import tree_leaves

from cloister.errors import (
    MemoryLimitError,
    RemoteIndexError,
    RemoteNotImplementedError,
    RemoteOpError,
    RemoteRuntimeError,
    RemoteValueError,
    WorkerError,
)
from cloister.tensor.faults import LinAlgError, RemoteLinAlgError
from cloister.tensor.geometry import DTYPE_NAMES

_OF_TORCH: Final = {
    IndexError: RemoteIndexError,
    ValueError: RemoteValueError,
    NotImplementedError: RemoteNotImplementedError,
    LinAlgError: RemoteLinAlgError,
    RuntimeError: RemoteRuntimeError,
}
_UNTOLD: Final = "its text stays there, since it could hold values"
_SHOWN: Final = 6
"""So many tensors are told of, and so many of their extents."""


def reported(fault: Exception, *, args: object = (), kwargs: object = ()) -> WorkerError:
    """PyTorch's exception as one that may travel: its type, but not its text, which can hold values.

    ``args``, ``kwargs``: what the operation was given. The shapes and types of its tensors are told, which the caller
    knows already.
    """
    if isinstance(fault, WorkerError):
        return fault
    text = str(fault)
    if isinstance(fault, MemoryError) or "not enough memory" in text or "can't allocate memory" in text:
        return MemoryLimitError("the operation needs more memory for its intermediate results than the session may use")
    for kind, reported in _OF_TORCH.items():
        if isinstance(fault, kind):
            return reported(
                f"PyTorch raised {kind.__name__.lstrip('_')} at the worker; {_UNTOLD}{_given(args, kwargs)}"
            )
    return RemoteOpError(f"PyTorch refused the operation at the worker; {_UNTOLD}{_given(args, kwargs)}")


def _given(args: object, kwargs: object) -> str:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    if not tensors:
        return ""
    told = ", ".join(f"{_name(each)}{list(each.shape[:_SHOWN])}" for each in tensors[:_SHOWN])
    more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
    kinds = {_name(each): None for each in tensors if each.is_floating_point()}
    hint = f"; most operations want one element type: x.to(torch.{next(iter(kinds))})" if len(kinds) > 1 else ""
    return f". It was given {told}{more}{hint}"


def _name(tensor: torch.Tensor) -> str:
    return DTYPE_NAMES.get(tensor.dtype, "another type")
