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
missing, ``MissingDependencyError`` says what to install. ``cloister.errors`` holds everything that cloister raises. The
names here and there are public; all other modules are private, whatever their names are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cloister import errors
from cloister.errors import CloisterError, MissingDependencyError

if TYPE_CHECKING:
    from cloister.aggregation.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
    from cloister.attest.verdict import Verdict
    from cloister.charter.charter import Charter, Noise
    from cloister.charter.jobs import Sampling
    from cloister.charter.jobs_toml import job_toml
    from cloister.charter.toml import parse_charter
    from cloister.ledger.chain import Receipt
    from cloister.net.attested import AttestedConnection, attest_peer
    from cloister.net.client import RemoteWorker, connect
    from cloister.net.identity import Identity
    from cloister.net.policy import AttestationPolicy
    from cloister.simulation.simulate import SimulationRun, simulate
    from cloister.simulation.splitting import split_by_label, split_dirichlet
    from cloister.study.base import Base, write_base
    from cloister.study.first_model import draw_first_model, recipe_toml
    from cloister.study.history import History, Round
    from cloister.study.job import job, model_digest
    from cloister.study.status import StudyStatus
    from cloister.study.study import Study, StudyRun
    from cloister.study.writing import write_study
    from cloister.tensor.hook import TorchHook
    from cloister.tensor.pointer import PointerTensor
    from cloister.tensor.training import TrainingReport
    from cloister.tensor.worker import Worker
    from cloister.worker.optimizers import SGD, Adam, AdamW, CosineDecay, StepDecay
    from cloister.worker.plans import Plan, PlannedLoss, plan
    from cloister.worker.virtual import VirtualWorker

__version__ = "0.1.0.dev0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AttestationPolicy",
    "AttestedConnection",
    "Base",
    "Charter",
    "CloisterError",
    "CosineDecay",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "History",
    "Identity",
    "MissingDependencyError",
    "Noise",
    "Plan",
    "PlannedLoss",
    "PointerTensor",
    "Receipt",
    "RemoteWorker",
    "Round",
    "Sampling",
    "SimulationRun",
    "StepDecay",
    "Study",
    "StudyRun",
    "StudyStatus",
    "TorchHook",
    "TrainingReport",
    "Verdict",
    "VirtualWorker",
    "Worker",
    "__version__",
    "attest_peer",
    "connect",
    "draw_first_model",
    "errors",
    "job",
    "job_toml",
    "model_digest",
    "parse_charter",
    "plan",
    "recipe_toml",
    "simulate",
    "split_by_label",
    "split_dirichlet",
    "write_base",
    "write_study",
]

_NAMES_IN = {
    "aggregation.strategies": "FedAdagrad FedAdam FedAvg FedAvgM FedProx FedYogi",
    "attest.verdict": "Verdict",
    "charter.charter": "Charter Noise",
    "charter.jobs": "Sampling",
    "charter.jobs_toml": "job_toml",
    "charter.toml": "parse_charter",
    "ledger.chain": "Receipt",
    "net.attested": "AttestedConnection attest_peer",
    "net.client": "RemoteWorker connect",
    "net.identity": "Identity",
    "net.policy": "AttestationPolicy",
    "simulation.simulate": "SimulationRun simulate",
    "simulation.splitting": "split_by_label split_dirichlet",
    "study.base": "Base write_base",
    "study.first_model": "draw_first_model recipe_toml",
    "study.history": "History Round",
    "study.job": "job model_digest",
    "study.status": "StudyStatus",
    "study.study": "Study StudyRun",
    "study.writing": "write_study",
    "tensor.hook": "TorchHook",
    "tensor.pointer": "PointerTensor",
    "tensor.training": "TrainingReport",
    "tensor.worker": "Worker",
    "worker.optimizers": "SGD Adam AdamW CosineDecay StepDecay",
    "worker.plans": "Plan PlannedLoss plan",
    "worker.virtual": "VirtualWorker",
}
_HOME = {name: f"cloister.{module}" for module, names in _NAMES_IN.items() for name in names.split()}


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
