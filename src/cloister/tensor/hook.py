"""``TorchHook``: gives tensors and modules the verbs ``send``, ``get``, ``move`` and ``copy``."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cloister.errors import ConfigurationError
from cloister.tensor import autocast, compiling, composites, foreach, former, out, sequences, wording  # noqa: F401  - they teach pointers more operations
from cloister.tensor.births import upload
from cloister.tensor.location import LocalSide, Location
from cloister.tensor.modules import copy_module, get_module, move_module, send_module
from cloister.tensor.moving import move
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.worker import Worker


class TorchHook:
    """Hooks PyTorch, once, however many of these are made.

    It adds ``Tensor.send``, and ``Module.send``, ``Module.get``, ``Module.move`` and ``Module.copy``; and it lets
    the state of an optimizer follow the parameters it belongs to when they change worker. Making a worker does the
    same.
    """

    def __init__(self, torch_module: ModuleType = torch) -> None:
        if torch_module is not torch:
            raise ConfigurationError("TorchHook hooks the torch that is imported: TorchHook(torch)")
        install()
        self.local_worker = LocalSide()
        """This process, as somewhere to move to."""


_installed = False


def install() -> None:
    """What ``TorchHook`` does; without effect the second time."""
    global _installed
    if _installed:
        return
    _installed = True
    torch.Tensor.send = _send_tensor  # type: ignore[attr-defined]
    nn.Module.send = send_module  # type: ignore[attr-defined]
    nn.Module.get = get_module  # type: ignore[attr-defined]
    nn.Module.move = move_module  # type: ignore[attr-defined]
    nn.Module.copy = copy_module  # type: ignore[attr-defined]
    register_optimizer_step_pre_hook(_state_follows)
    register_optimizer_step_pre_hook(foreach.refuse_fused)
    for part in (foreach, autocast, wording, former, compiling):
        part.install()


def _send_tensor(
    tensor: torch.Tensor, worker: Worker, tags: Sequence[str] | Location = (), *others: Location
) -> PointerTensor:
    """Sends the tensor's values to ``worker`` and returns a pointer to them; see ``Worker.send``.

    Raises:
        ConfigurationError: a name instead of a worker, or several workers.
    """
    if others or isinstance(tags, Location):
        raise ConfigurationError("a pointer is to one worker: write [x.send(worker) for worker in (...)]")
    if not isinstance(worker, Location):
        raise ConfigurationError(
            f"x.send takes a worker, not {type(worker).__name__}: write bob = cloister.VirtualWorker(id=...), "
            "or bob = cloister.connect(...), and x.send(bob)"
        )
    return worker.send(tensor, tags=tags)


def _state_follows(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Brings each parameter's state to where the parameter is now."""
    for parameter, state in optimizer.state.items():
        there: Location | None = parameter.location if isinstance(parameter, PointerTensor) else None
        for name, value in state.items():
            if type(value) is PointerTensor:  # a draft is at no worker, and joins any
                if there is None:
                    state[name] = value.get()
                elif value.location is not there:
                    move([value], there)
            elif there is not None and isinstance(value, torch.Tensor) and value.dim():
                state[name] = upload(value, there)
