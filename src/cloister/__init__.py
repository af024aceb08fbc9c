"""Train on tensors that stay where they are.

A worker holds tensors; you hold pointers to them. A pointer is a ``torch.Tensor`` with a shape, a dtype and a gradient,
and no data: what you do with it is done where the data is, and ``get()`` brings a value home.

    import torch
    import cloister

    bob = cloister.VirtualWorker(cloister.TorchHook(torch), id="bob")
    x = torch.tensor([1.0, 2.0]).send(bob)      # the values go to bob; x is a pointer
    y = (x * 3).sum()                           # computed at bob; nothing waits
    y.get()                                     # tensor(9.)

``VirtualWorker`` lives in this process, for learning and for tests. Another machine is one line away, and nothing else
in a script changes:

    bob = cloister.connect("bob.example:7443", identity="me.key", peer="sha256:...")

Names are loaded when they are first used, so ``import cloister`` is quick and needs no torch. Where torch is needed and
missing, ``MissingDependencyError`` says what to install. ``cloister.errors`` holds everything that cloister raises.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cloister import errors
from cloister.errors import CloisterError, MissingDependencyError

if TYPE_CHECKING:
    from cloister.aggregation.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
    from cloister.net.attested import attest_peer
    from cloister.net.client import RemoteWorker, connect
    from cloister.net.identity import Identity
    from cloister.net.policy import AttestationPolicy, read_charter
    from cloister.simulation.simulate import simulate
    from cloister.study.job import model_digest
    from cloister.study.study import Study
    from cloister.tensor.hook import TorchHook
    from cloister.tensor.pointer import PointerTensor
    from cloister.worker.optimizers import SGD, Adam, AdamW
    from cloister.worker.plans import Plan, plan
    from cloister.worker.virtual import VirtualWorker

__version__ = "0.1.0.dev0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AttestationPolicy",
    "CloisterError",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "Identity",
    "Plan",
    "PointerTensor",
    "RemoteWorker",
    "Study",
    "TorchHook",
    "VirtualWorker",
    "__version__",
    "attest_peer",
    "connect",
    "errors",
    "model_digest",
    "plan",
    "read_charter",
    "simulate",
]

_HOME = {
    "Adam": "cloister.worker.optimizers",
    "AdamW": "cloister.worker.optimizers",
    "AttestationPolicy": "cloister.net.policy",
    "FedAdagrad": "cloister.aggregation.strategies",
    "FedAdam": "cloister.aggregation.strategies",
    "FedAvg": "cloister.aggregation.strategies",
    "FedAvgM": "cloister.aggregation.strategies",
    "FedProx": "cloister.aggregation.strategies",
    "FedYogi": "cloister.aggregation.strategies",
    "Identity": "cloister.net.identity",
    "Plan": "cloister.worker.plans",
    "PointerTensor": "cloister.tensor.pointer",
    "RemoteWorker": "cloister.net.client",
    "SGD": "cloister.worker.optimizers",
    "Study": "cloister.study.study",
    "TorchHook": "cloister.tensor.hook",
    "VirtualWorker": "cloister.worker.virtual",
    "connect": "cloister.net.client",
    "attest_peer": "cloister.net.attested",
    "model_digest": "cloister.study.job",
    "plan": "cloister.worker.plans",
    "read_charter": "cloister.net.policy",
    "simulate": "cloister.simulation.simulate",
}


def __getattr__(name: str) -> object:
    """Load ``name`` from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'cloister' has no attribute {name!r}")
    try:
        value: object = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingDependencyError(
            f"cloister.{name} needs {error.name}, which is not installed: pip install 'cloister[torch]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
