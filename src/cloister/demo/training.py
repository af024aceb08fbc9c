"""The demonstration's script: federated averaging (McMahan et al. 2017) as a researcher writes it, on pointers.

Everything with a hospital's data in it happens at that hospital; what comes here are losses, totals over all the
hospitals, and averaged models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional as F

from cloister.demo.hospitals import Patients, Scale
from cloister.tensor.worker import Worker

ROUNDS: Final = 20
LOCAL_STEPS: Final = 5
_LEARNING_RATE: Final = 0.3


@dataclass(frozen=True)
class Hospital:
    """One hospital, as the researcher sees it: a worker, and pointers to standardised data there."""

    worker: Worker
    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Round:
    """One round's outcome: each hospital's last loss, and the averaged model's accuracy on the patients held out."""

    number: int
    losses: Mapping[str, float]
    accuracy: float


def new_model() -> nn.Module:
    """``(patients, 30) -> (patients, 1)``, logits; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))


def find_patients(workers: Mapping[str, Worker], aggregator: Worker) -> tuple[dict[str, Hospital], Scale]:
    """The hospitals' data, standardised where it lies. The totals for that are added up at the aggregator."""
    found = {
        name: (worker.search("#breast-cancer", "#x")[0], worker.search("#breast-cancer", "#y")[0])
        for name, worker in workers.items()
    }
    count = sum(len(x) for x, _ in found.values())
    mean = _total([x.sum(0) for x, _ in found.values()], aggregator) / count
    squares = [((x - mean.send(x.location)) ** 2).sum(0) for x, _ in found.values()]  # type: ignore[attr-defined]
    scale = Scale(mean, (_total(squares, aggregator) / count).sqrt())
    hospitals = {}
    for name, (x, y) in found.items():
        there = Scale(scale.mean.send(workers[name]), scale.deviation.send(workers[name]))  # type: ignore[attr-defined]
        hospitals[name] = Hospital(workers[name], there(x), y)
    return hospitals, scale


def federate(
    hospitals: Mapping[str, Hospital], aggregator: Worker, model: nn.Module, *, held_out: Patients, rounds: int = ROUNDS
) -> Iterator[Round]:
    """Trains ``model``, in place, round by round; ``held_out`` is standardised as the hospitals' data is."""
    total = sum(map(len, hospitals.values()))
    for number in range(1, rounds + 1):
        copies: dict[str, Any] = {name: model.copy() for name in hospitals}  # type: ignore[operator]
        losses = {}
        for name, hospital in hospitals.items():
            copies[name].send(hospital.worker)
            losses[name] = _train(copies[name], hospital.x, hospital.y)  # nothing waits: they all train at once
        reported = {name: loss.item() for name, loss in losses.items()}
        for copy in copies.values():
            copy.move(aggregator)
        weights = {name: len(hospital) / total for name, hospital in hospitals.items()}
        _average(model, copies, weights)
        yield Round(number, reported, accuracy(model, held_out))


def train_alone(hospital: Hospital, *, rounds: int = ROUNDS) -> nn.Module:
    """As many steps as the federation takes, on one hospital's data, at that hospital."""
    model: Any = new_model()
    model.send(hospital.worker)
    _train(model, hospital.x, hospital.y, steps=rounds * LOCAL_STEPS)
    return model.get()  # type: ignore[no-any-return]


def train_pooled(patients: Patients, *, rounds: int = ROUNDS) -> nn.Module:
    """As many steps, on everyone's standardised data in one place: what the federation is compared with."""
    model = new_model()
    _train(model, patients.x, patients.y, steps=rounds * LOCAL_STEPS)
    return model


def accuracy(model: nn.Module, patients: Patients) -> float:
    """The share of standardised patients that a local model judges right."""
    with torch.no_grad():
        return float(((model(patients.x) > 0) == (patients.y > 0.5)).float().mean())


def _train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, steps: int = LOCAL_STEPS) -> torch.Tensor:
    """Full-batch gradient descent; the same lines for pointers and for tensors."""
    optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.detach()


def _total(parts: list[torch.Tensor], aggregator: Worker) -> torch.Tensor:
    """The sum of tensors that lie at different hospitals, added up at the aggregator."""
    moved: list[Any] = [part.move(aggregator) for part in parts]  # type: ignore[attr-defined]
    return sum(moved[1:], start=moved[0]).get()  # type: ignore[no-any-return]


@torch.no_grad()
def _average(model: nn.Module, copies: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
    """Sets ``model`` to the weighted average of ``copies``, which lie at the aggregator and are used up."""
    names = list(copies)
    average: Any = copies[names[0]]
    for parameter, *others in zip(*(copies[name].parameters() for name in names), strict=True):
        parameter.mul_(weights[names[0]])
        for name, other in zip(names[1:], others, strict=True):
            parameter.add_(other, alpha=weights[name])
    model.load_state_dict(average.get().state_dict())
