"""What rounding to two bytes a value costs: right answers of models whose updates and steps travelled so."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

import cloister
from bench.accuracy import SEEDS, Task, digits, entropy, quiet
from cloister.aggregation.strategies import FedAdam, FedAvg, Strategy
from cloister.charter.jobs import PRECISIONS, Precision

OWNERS: Final = 10
STRATEGIES: Final[dict[str, Strategy]] = {"FedAvg": FedAvg(), "FedAdam": FedAdam(lr=0.03)}


def convolutions() -> Task:
    """A LeNet for images of 8 x 8."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 32),
            nn.Tanh(),
            nn.Linear(32, 10),
        )

    return replace(digits(), name="LeNet for 8 x 8, digits", model=model)


TASKS: Final[tuple[Callable[[], Task], ...]] = (digits, convolutions)


def trained(
    task: Task, seed: int, *, strategy: Strategy, precision: Precision, rounds: int = 100
) -> tuple[float, float]:
    """The share of right answers after a simulated study, and the loss on what was trained on. Each owner has digits of
    two kinds, mostly, so that its updates are unlike the others'."""
    x, y = task.rows
    order = (y * 1000 + torch.arange(len(y)) % 700).argsort()  # by label; within it as they come
    x, y = x[order], y[order]
    owners = {str(at): (x[at * 144 : (at + 1) * 144], y[at * 144 : (at + 1) * 144]) for at in range(OWNERS)}
    torch.manual_seed(seed)
    run = cloister.simulate(
        task.model(),
        entropy,
        owners=owners,
        optimizer=cloister.SGD(lr=0.1),
        batch_size=32,
        steps=4,
        rounds=rounds,
        floor=2,
        clip=10.0,
        strategy=strategy,
        precision=precision,
        seed=seed,
        on_round=quiet,
    )
    with torch.no_grad():
        return task.right(run.model), float(F.cross_entropy(run.model(x), y))


def run(console: Console, folder: Path) -> None:
    """(w)."""
    table = Table(title="(w) 100 rounds of ten owners whose values travel in two bytes", title_justify="left")
    for column in ("", "strategy", "precision", "right, %", "loss in training"):
        table.add_column(column, justify="left" if column in ("", "strategy", "precision") else "right")
    for make in TASKS:
        task = make()
        for name, strategy in STRATEGIES.items():
            for precision in PRECISIONS:
                found = [trained(task, seed, strategy=strategy, precision=precision) for seed in SEEDS]
                right, loss = zip(*found, strict=True)
                table.add_row(task.name, name, precision, _told([100 * each for each in right], 1), _told(loss, 4))
    console.print(table)


def _told(values: list[float] | tuple[float, ...], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"
