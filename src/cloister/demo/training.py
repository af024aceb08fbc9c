"""The demonstration's script: what a researcher writes, and what the charter names of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.demo import hospitals
from cloister.demo.hospitals import Patients
from cloister.study.job import describe, make
from cloister.testing.studies import LocalStudy
from cloister.worker.data.rows import Arrays
from cloister.worker.plans import Plan, PlannedLoss

NUMBERS: Final[dict[str, Any]] = {
    "optimizer": cloister.SGD(lr=0.1, momentum=0.9),
    "batch_size": 32,
}
"""What the study and everything that it is compared with are trained with."""

STEPS: Final = 14
"""Of each hospital in a round: three passes over the data of the middle one, twice as many or half for the others."""
PASSES: Final = 3
WEIGHTS: Final = "rows"
"""They differ in who comes to them as much as in how many, so that the same weight for all would cost 4 points."""
SEED: Final = 5

EXAMPLE: Final = (torch.zeros(4, 30), torch.zeros(4, 1))


@cloister.plan
def diagnose(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The training step on which the hospitals have agreed."""
    logits = model(x)
    right = (logits > 0) == (y > 0.5)
    return {"loss": F.binary_cross_entropy_with_logits(logits, y), "accuracy": right.float().mean()}


@cloister.plan
def copy_row(model: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Another one, which trains nothing: what it changes the first layer by is a multiple of one patient's row."""
    stolen = (model[0].weight[0] * x[0]).sum()
    return {"loss": stolen + 0 * model(x).mean(), "accuracy": 0 * y.mean()}


def new_model() -> nn.Module:
    """``(patients, 30) -> (patients, 1)``, logits; the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))


def captured(loss: PlannedLoss) -> Plan:
    """The plan of a training step for this model and these data."""
    return loss.capture(new_model(), example=EXAMPLE)


def train_at_one_place(patients: Patients, plan: Plan, *, rounds: int) -> nn.Module:
    """As many passes over the data as in the study, all in one place: what the federation is compared with."""
    owners = {"one place": Arrays({"x": patients.x, "y": patients.y})}
    run = cloister.simulate(
        new_model(),
        plan,
        owners=owners,
        rounds=rounds,
        local_epochs=PASSES,
        seed=SEED,
        on_round=lambda done: None,
        **NUMBERS,
    )
    return run.model


def accuracy(model: nn.Module, patients: Patients) -> float:
    """The share of patients that a model judges right."""
    with torch.no_grad():
        return float(((model(patients.x) > 0) == (patients.y > 0.5)).float().mean())


def gather(folder: Path, parts: Mapping[str, Patients], plan: Plan, *, rounds: int) -> LocalStudy:
    """The hospitals under a charter that allows this plan, so many rounds of it, and no other."""
    limits = {
        "first_model": cloister.model_digest(new_model()),
        "floor": 2,
        "largest_share": 0.5,
        "clip": 10.0,
        "rounds": rounds,
        "min_batch": 32,
        "min_examples": 64,
        "row_buckets": (100, 150, 200),
        "metrics": {"loss": (0.0, 100.0), "accuracy": (0.0, 1.0)},
    }
    data = {name: hospitals.write(folder, name, part) for name, part in parts.items()}
    return LocalStudy(folder, data, jobs=[agreed(plan, rounds=rounds)], limits=limits, name="hospitals")


def agreed(plan: Plan, *, rounds: int) -> AgreedJob:
    """What the hospitals have agreed to compute."""
    return cloister.job(
        "diagnose",
        plan,
        data=hospitals.TAG,
        steps=STEPS,
        rounds=rounds,
        weights=WEIGHTS,
        **NUMBERS,
    )


def job(plan: Plan, *, rounds: int, charter: Charter) -> bytes:
    """The study's job as it travels."""
    return make(describe(new_model()), plan, agreed(plan, rounds=rounds), charter=charter)
