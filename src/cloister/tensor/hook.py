"""``TorchHook``: gives tensors and modules the verbs ``send``, ``get``, ``move`` and ``copy``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from cloister.errors import ConfigurationError
from cloister.tensor import (  # noqa: F401  - some of them teach pointers more operations
    autocast,
    composites,
    conversions,
    foreach,
    former,
    out,
    sequences,
    states,
    wording,
)
from cloister.tensor.modules import copy_module, get_module, move_module, send_module
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.session import LocalSide, Location
from cloister.tensor.worker import Worker


class TorchHook:
    """Hooks PyTorch, once, however many of these are made.

    It adds ``Tensor.send``, and ``Module.send``, ``Module.get``, ``Module.move`` and ``Module.copy``; it has
    ``Module.to`` and ``Module.cpu`` bring a sent module home in place; it lets the state of an optimizer follow the
    parameters it belongs to when they change worker; and it has ``torch.compile`` leave this package's code alone.
    Making a worker does the same.
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
    nn.Module.to = conversions.to(nn.Module.to)  # type: ignore[assignment, method-assign]
    nn.Module.cpu = conversions.cpu(nn.Module.cpu)  # type: ignore[assignment, method-assign]
    torch.compile = _leaving_us_out(torch.compile)
    register_optimizer_step_pre_hook(states.before_step)
    Optimizer.__setstate__ = _watching(Optimizer.__setstate__)  # type: ignore[assignment, method-assign]
    register_optimizer_step_pre_hook(foreach.refuse_fused)
    for part in (foreach, autocast, wording, former):
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


def _leaving_us_out(plain: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile``, which is told to run this package's code as it is: it would compile what becomes of each
    operation on a pointer, for half a minute, and nothing would be faster for it."""

    @wraps(plain)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo import trace_rules  # only now: it takes seconds to import

        if not trace_rules.check_file(__file__).skipped:
            trace_rules.add("cloister")
        return plain(*args, **kwargs)

    return compiled


def _watching(set_state: Callable[[Optimizer, dict[str, Any]], None]) -> Callable[[Optimizer, dict[str, Any]], None]:
    """An optimizer has state before its first step if it was copied, or loaded a checkpoint: both end here."""

    @wraps(set_state)
    def set_and_watch(optimizer: Optimizer, state: dict[str, Any]) -> None:
        set_state(optimizer, state)
        states.watch(optimizer)

    return set_and_watch
