"""The demonstration's script: what a researcher writes, and what the charter names of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.accounting.proposals import plan_for
from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.charter.owner_limits import PrivacyBudget
from cloister.demo import hospitals
from cloister.demo.hospitals import Patients
from cloister.study.job import describe, make
from cloister.testing.studies import LocalStudy
from cloister.worker.data.rows import Arrays
from cloister.worker.plans import Plan, PlannedLoss

EPSILON: Final = 2.0
DELTA: Final = 1e-5
"""What the whole study may cost each patient, as each hospital allows it."""
CLIP: Final = 0.5
"""The most that one patient's gradient counts for."""
RATE: Final = 0.35
"""The probability with which each patient is in a round."""
STUDIED: Final[dict[str, Any]] = {"optimizer": cloister.SGD(lr=2.0), "batch_size": 128, "steps": 1}
"""What the study is trained with, beside what ``sampling_of`` says."""

NUMBERS: Final[dict[str, Any]] = {"optimizer": cloister.SGD(lr=0.1, momentum=0.9), "batch_size": 32}
"""What everything that it is compared with is trained with, none of which hides anybody."""
ROUNDS: Final = 20
PASSES: Final = 3
STEPS: Final = 14
"""Of each hospital in a round without noise: three passes over the data of the middle one."""
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
        return nn.Sequential(nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 1))


def captured(loss: PlannedLoss) -> Plan:
    """The plan of a training step for this model and these data."""
    return loss.capture(new_model(), example=EXAMPLE)


def sampling_of(parts: Mapping[str, Patients]) -> cloister.Sampling:
    """How patients are drawn: the sum is divided by as many as are expected."""
    return cloister.Sampling(rate=RATE, rows=round(RATE * sum(map(len, parts.values()))))


def noise_of(parts: Mapping[str, Patients], *, rounds: int) -> cloister.Noise:
    """The least noise with which so many rounds cost ``EPSILON``.

    Raises:
        MissingDependencyError: dp-accounting is not installed.
    """
    everybody = sum(map(len, parts.values()))
    (found,) = plan_for(EPSILON, delta=DELTA, rows=everybody, rates=[RATE], rounds=[rounds])
    return cloister.Noise(unit="record", multiplier=found.multiplier, delta=DELTA)


def train_without_noise(parts: Mapping[str, Patients], plan: Plan) -> nn.Module:
    """The three hospitals as a federation that hides nobody, in this process: what noise is compared with."""
    owners = {name: (part.x, part.y) for name, part in parts.items()}
    run = cloister.simulate(
        new_model(),
        plan,
        owners=owners,
        rounds=ROUNDS,
        steps=STEPS,
        weights="rows",
        floor=2,
        largest_share=0.5,
        clip=10.0,
        seed=SEED,
        on_round=lambda done: None,
        **NUMBERS,
    )
    return run.model


def train_at_one_place(patients: Patients, plan: Plan) -> nn.Module:
    """As many passes over the data as without noise, all in one place: what a federation is compared with."""
    owners = {"one place": Arrays({"x": patients.x, "y": patients.y})}
    run = cloister.simulate(
        new_model(),
        plan,
        owners=owners,
        rounds=ROUNDS,
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
    """The hospitals under a charter that allows this plan, so many rounds of it with noise, and no other."""
    sampling, noise = sampling_of(parts), noise_of(parts, rounds=rounds)
    limits = {
        "first_model": cloister.model_digest(new_model(), plan),
        "floor": 2,
        "largest_share": 0.5,
        "clip": CLIP,
        "rounds": rounds,
        "min_examples": 64,
        "noise": noise,
    }
    budget = PrivacyBudget(EPSILON, DELTA)
    data = {name: hospitals.write(folder, name, part, budget=budget) for name, part in parts.items()}
    jobs = [agreed(plan, rounds=rounds, sampling=sampling)]
    return LocalStudy(folder, data, jobs=jobs, limits=limits, name="hospitals")


def agreed(plan: Plan, *, rounds: int, sampling: cloister.Sampling) -> AgreedJob:
    """What the hospitals have agreed to compute."""
    return cloister.job("diagnose", plan, data=hospitals.TAG, rounds=rounds, sampling=sampling, **STUDIED)


def job(plan: Plan, *, rounds: int, charter: Charter) -> bytes:
    """The study's job as it travels."""
    (found,) = charter.jobs
    wanted = agreed(plan, rounds=rounds, sampling=found.sampling or cloister.Sampling(rate=1.0, rows=1))
    return make(describe(new_model(), plan), plan, wanted, charter=charter)
