"""Modules at a worker: parameters and buffers become pointers, in place, so that optimizers keep hold of them."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from cloister.errors import ConfigurationError, PointerAssignmentError
from cloister.tensor.births import BornAt, upload
from cloister.tensor.location import LocalSide, Location
from cloister.tensor.moving import move
from cloister.tensor.pointer import PointerTensor, fetch

M = TypeVar("M", bound=nn.Module)


def send_module(module: M, worker: Location, *others: Location) -> M:
    """Moves a local module to ``worker``, in place: parameters, buffers and gradients, shared ones once.

    Raises:
        PointerAssignmentError: a parameter is held by a live autograd graph.
        ConfigurationError: a name instead of a worker, or several workers.
    """
    if others or not isinstance(worker, Location):
        raise ConfigurationError(
            "a module is at one worker: write copies = [model.copy().send(worker) for worker in (...)], "
            "with workers of cloister.VirtualWorker(...) or cloister.connect(...)"
        )
    tensors = _tensors_of(module)
    pointers = [tensor for tensor in tensors if isinstance(tensor, PointerTensor)]
    local = [tensor for tensor in tensors if not isinstance(tensor, PointerTensor)]
    if pointers:
        move(pointers + _gradients(pointers), worker)
    _swap(module, [(tensor, _sent(tensor, worker)) for tensor in local])
    _settle(module, worker)
    return module


def get_module(module: M) -> M:
    """Brings a module's values back, in place, with one round trip for each worker that holds any."""
    pointers = [tensor for tensor in _tensors_of(module) if isinstance(tensor, PointerTensor)]
    by_location: dict[Location, list[PointerTensor]] = {}
    for pointer in pointers + _gradients(pointers):
        by_location.setdefault(pointer.location, []).append(pointer)
    values: dict[int, torch.Tensor] = {}
    for there in by_location.values():
        values.update(zip(map(id, there), fetch(there), strict=True))
    _swap(module, [(pointer, _brought(pointer, values)) for pointer in pointers])
    _settle(module, None)
    return module


def move_module(module: M, worker: Location | LocalSide) -> M:
    """Moves a module to another worker, directly, in place; to the local side it is ``get``."""
    return get_module(module) if isinstance(worker, LocalSide) else send_module(module, worker)


def copy_module(module: M) -> M:
    """A copy of a module; of one at a worker, a copy made there."""
    return copy.deepcopy(module)


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    every: Iterable[torch.Tensor] = (*module.parameters(), *module.buffers())
    return list({id(tensor): tensor for tensor in every}.values())


def _sent(tensor: torch.Tensor, worker: Location) -> PointerTensor:
    sent = upload(tensor, worker)
    if isinstance(tensor, nn.Parameter):
        sent._is_param = True
    if tensor.grad is not None:
        sent.grad = upload(tensor.grad, worker)
    return sent


def _brought(pointer: PointerTensor, values: dict[int, torch.Tensor]) -> torch.Tensor:
    local = values[id(pointer)]
    if getattr(pointer, "_is_param", False):
        local = nn.Parameter(local, requires_grad=pointer.requires_grad)
    if pointer.grad is not None:
        local.grad = values[id(pointer.grad)]
    return local


def _gradients(tensors: Iterable[torch.Tensor]) -> list[PointerTensor]:
    found = (tensor.grad for tensor in tensors)
    return [gradient for gradient in found if isinstance(gradient, PointerTensor)]


@contextmanager
def _recurrent_weights_loose(module: nn.Module) -> Iterator[None]:
    """Recurrent layers keep weak references to their weights, which would forbid the swap; they make them anew
    afterwards."""
    recurrent = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    for part in recurrent:
        part._flat_weight_refs = []
    try:
        yield
    finally:
        for part in recurrent:
            part._init_flat_weights()


def _swap(module: nn.Module, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Puts the second of each pair where the first is, for all who hold it: the module, an optimizer, a tied layer.

    All of them or none.
    """
    done: list[tuple[torch.Tensor, torch.Tensor]] = []
    with _recurrent_weights_loose(module):
        try:
            for held, new in pairs:
                torch.utils.swap_tensors(held, new)  # type: ignore[no-untyped-call]
                done.append((held, new))
        except RuntimeError:
            for held, new in reversed(done):
                torch.utils.swap_tensors(held, new)  # type: ignore[no-untyped-call]
            raise PointerAssignmentError(
                "a parameter of this module is still held by an autograd graph or a weak reference; "
                "delete the loss or output that keeps the graph alive, then send or get the module"
            ) from None


class _Forward:
    """A sent module's ``forward``: what its code makes with ``torch.zeros`` and the like is born where the module is.

    ``own`` is a ``forward`` that was set on the module itself rather than on its class, if there is one. The module
    is held weakly: a cycle would keep its objects at the worker until Python's collector comes by.
    """

    def __init__(self, module: nn.Module, own: Callable[..., Any] | None, location: Location) -> None:
        self.module = weakref.ref(module)
        self.own = own
        self.location = location

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.module()
        forward = self.own or partial(type(module).forward, module)
        if _innermost() is self.location:
            return forward(*args, **kwargs)
        with BornAt(self.location):
            return forward(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Forward:
        return _Forward(memo[id(self.module())], copy.deepcopy(self.own, memo), self.location)


def _innermost() -> Location | None:
    if not torch._C._len_torch_dispatch_stack():
        return None
    mode = torch._C._get_dispatch_stack_at(torch._C._len_torch_dispatch_stack() - 1)
    return mode.location if isinstance(mode, BornAt) else None


def _settle(module: nn.Module, location: Location | None) -> None:
    """Has every part of the module make its new tensors at ``location``, or, for None, where PyTorch would."""
    for part in module.modules():
        own = part.__dict__.pop("forward", None)
        if isinstance(own, _Forward):
            own = own.own
        if location is not None:
            part.__dict__["forward"] = _Forward(part, own, location)
        elif own is not None:
            part.__dict__["forward"] = own
