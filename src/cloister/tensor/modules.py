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
from cloister.tensor import keras_hooks, states
from cloister.tensor.deferred import Draft, settle
from cloister.tensor.dispatch import forwards
from cloister.tensor.factories import BornAt, upload
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.session import LocalSide, Location

M = TypeVar("M", bound=nn.Module)


def send_module(module: M, worker: Location, *others: Location) -> M:
    """Moves a module to ``worker``, in place: parameters, buffers and gradients, shared ones once.

    What optimizers keep for its parameters at other workers goes along. What they keep here follows at their next step.

    Raises:
        MoveError: the workers that hold the module could not pass it on; it is where it was.
        PointerAssignmentError: a parameter is held by a live autograd graph.
        ConfigurationError: a name instead of a worker, or several workers.
    """
    if others or not isinstance(worker, Location):
        raise ConfigurationError(
            "a module is at one worker: write copies = [model.copy().send(worker) for worker in (...)], "
            "with workers of cloister.VirtualWorker(...) or cloister.connect(...)"
        )
    keras_hooks.install(module)
    tensors = tensors_of(module)
    for tensor in tensors:
        if type(tensor) is Draft:
            settle(tensor, worker)
    pointers = [tensor for tensor in tensors if isinstance(tensor, PointerTensor)]
    local = [tensor for tensor in tensors if not isinstance(tensor, PointerTensor)]
    states.move_with_state(pointers + _gradients(pointers), tensors, worker)
    _swap(module, [(tensor, _sent(tensor, worker)) for tensor in local])
    _settle(module, worker)
    return module


def get_module(module: M) -> M:
    """Brings a module's values back, in place, with one round trip for each worker that holds any.

    What optimizers keep for its parameters comes along.
    """
    tensors = tensors_of(module)
    pointers = [tensor for tensor in tensors if isinstance(tensor, PointerTensor)]
    kept = states.kept_for(tensors)
    values = states.fetched([*pointers, *_gradients(pointers), *states.pointers_in(kept)])
    for pointer in pointers:
        pointer.untag()
    _swap(module, [(pointer, _brought(pointer, values)) for pointer in pointers])
    states.replace(kept, values)
    _settle(module, None)
    return module


def move_module(module: M, worker: Location | LocalSide) -> M:
    """Moves a module to another worker, directly, in place; to the local side it is ``get``."""
    return get_module(module) if isinstance(worker, LocalSide) else send_module(module, worker)


def copy_module(module: M) -> M:
    """A copy of a module; of one at a worker, a copy made there."""
    return copy.deepcopy(module)


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """A module's parameters and buffers, each once."""
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
    """A sent module's ``forward``: what its code makes with ``torch.zeros`` and the like is born where the module is,
    and nothing comes home unasked.

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
        forwards.under_way += 1
        try:
            with BornAt(self.location):
                return forward(*args, **kwargs)
        finally:
            forwards.under_way -= 1

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
