"""Tensors born at a worker: factory functions called while ``BornAt`` is in force make pointers."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cloister.errors import OpRefusedError
from cloister.tensor import ops
from cloister.tensor.deferred import Draft
from cloister.tensor.dispatch import dispatch, issue
from cloister.tensor.geometry import Geometry
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.session import Location

_LIFT: Final = torch.ops.aten.lift_fresh.default


class BornAt(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is in force, ``torch.zeros``, ``torch.randn``, ``torch.tensor`` and the like make their tensor at
    ``location``."""

    seeds = True
    """Whether random numbers have other seeds than the caller's, in this mode and in that of a capture."""

    def __init__(self, location: Location) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.location = location

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch would wrap the method below for its compiler, which costs a second at the first call and 10 us at
        # each.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if Draft in types:  # born outside of this mode, and at home where the first pointer is that it meets
            return Draft.__torch_dispatch__(func, types, args, kwargs)
        if PointerTensor in types:
            return dispatch(func, args, kwargs)
        if func is _LIFT and not args[0].is_meta:
            return upload(args[0], self.location)
        if not _holds_tensor(args):
            func, kwargs = ops.unseeded(func, kwargs)
            try:
                op = ops.of_overload(func)
            except OpRefusedError:
                return func(*args, **kwargs)
            if op.row.factory and not _without_values(kwargs):
                if torch.get_default_dtype() is not torch.float32 and "dtype" in op.by_name:
                    # The worker's default is PyTorch's own; this caller's is another.
                    kwargs = {**kwargs, "dtype": func(*args, **{**kwargs, "device": "meta"}).dtype}
                return issue(op, args, kwargs, location=self.location)
        return func(*args, **kwargs)


def _without_values(kwargs: dict[str, Any]) -> bool:
    """Whether a tensor without values is wanted, which is at no worker: Keras finds out shapes with such."""
    device = kwargs.get("device")
    return isinstance(device, torch.device) and device.type == "meta"


def _holds_tensor(args: tuple[Any, ...]) -> bool:
    return any(
        isinstance(value, torch.Tensor)
        or (isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value))
        for value in args
    )


def upload(tensor: torch.Tensor, location: Location) -> PointerTensor:
    """A pointer to a copy of a local tensor's values at ``location``; a leaf, with the same ``requires_grad``."""
    geometry = Geometry.contiguous(tensor.dtype, tuple(tensor.shape))
    return PointerTensor.make(location.put(tensor), geometry, requires_grad=tensor.requires_grad)
