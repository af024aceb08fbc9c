"""The job of a soak: as small as a charter allows, so that a round is its messages, signatures and writes."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter.jobs import AgreedJob
from cloister.worker.plans import Plan

TAG: Final = "#soak"
COLUMNS: Final = ("x", "y")
ROWS: Final = 48
ROUND_S: Final = 4
"""What owners have to train: one that is stopped or still loading is waited for so long, and not in the next rounds."""
LAST: Final = 6
"""The rounds of the second job, which all owners are in: their answers free what is open of the first."""
NUMBERS: Final[dict[str, Any]] = {
    "data": TAG,
    "optimizer": cloister.SGD(lr=0.05),
    "batch_size": 16,
    "steps": 2,
    "weights": "uniform",
}


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy."""
    return {"loss": F.cross_entropy(model(x), y)}


def model() -> nn.Module:
    """The charter's first model."""
    torch.manual_seed(1)
    return nn.Linear(4, 3)


def example() -> tuple[Tensor, Tensor]:
    """One batch."""
    return torch.zeros(4, 4), torch.zeros(4, dtype=torch.int64)


def agreed(rounds: int) -> list[AgreedJob]:
    """The charter's jobs: the long one, and the last rounds."""
    plan = training_step()
    return [
        cloister.job("soak", plan, **NUMBERS, rounds=rounds, max_s=ROUND_S),
        cloister.job("last", plan, **{**NUMBERS, "steps": 3}, rounds=LAST, max_s=120),
    ]


def training_step() -> Plan:
    """What they are of."""
    return loss.capture(model(), example=example())


def limits(*, rounds: int, floor: int) -> dict[str, Any]:
    """Of the charter."""
    return {
        "first_model": cloister.model_digest(model(), training_step()),
        "floor": floor,
        "clip": 2.0,
        "rounds": 20 * rounds + 1000,
        "min_examples": 32,
        "metrics": {"loss": (0.0, 100.0)},
    }
