"""``model.to(...)`` and ``model.cpu()``, where they mean that a module changes its place.

PyTorch converts tensor by tensor and makes new parameters where old and new are of different kinds, which leaves an
optimizer with parameters that nobody trains. So the change of place is made in place first; what is left for PyTorch is
the change of element type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn

from cloister.errors import OpRefusedError, PointerAssignmentError
from cloister.tensor.dispatch import refuse_in_forward
from cloister.tensor.modules import get_module, send_module, tensors_of
from cloister.tensor.pointer import DEVICE, OTHER_DEVICE, PointerTensor

Convert = Callable[..., nn.Module]


def to(plain: Convert) -> Convert:
    """``nn.Module.to``, made of PyTorch's own, for modules that may be at a worker.

    To the CPU it is ``get``. To a pointer, ``model.to(p)``, it is ``send`` to where the pointer is.

    Raises:
        OpRefusedError: to another device, for a module at a worker.
        PointerAssignmentError: to the device of pointers, which does not say at which worker.
    """

    @wraps(plain)
    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            _change_place(module, device, kwargs.get("tensor", args[0] if args else None))
        return plain(module, *args, **kwargs)

    return to


def cpu(plain: Convert) -> Convert:
    """``nn.Module.cpu``, made of PyTorch's own: ``get`` for a module at a worker."""

    @wraps(plain)
    def cpu(module: nn.Module) -> nn.Module:
        _change_place(module, torch.device("cpu"), None)
        return plain(module)

    return cpu


def _change_place(module: nn.Module, device: torch.device, like: object) -> None:
    tensors = tensors_of(module)
    pointers = [tensor for tensor in tensors if isinstance(tensor, PointerTensor)]
    if device == DEVICE:
        if type(like) is PointerTensor:
            send_module(module, like.location)
        elif len(pointers) < len(tensors):
            raise PointerAssignmentError(
                "the device of pointers does not say at which worker they are: write model.send(worker), "
                "or model.to(pointer)"
            )
    elif pointers and device.type == "cpu":
        refuse_in_forward(pointers[0].location)
        get_module(module)
    elif pointers:
        raise OpRefusedError(OTHER_DEVICE)
