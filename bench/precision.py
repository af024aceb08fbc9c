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
    table.add_column("")
    table.add_column("strategy")
    table.add_column("precision")
    for column in ("right, %", "loss in training", "right, to full", "loss, to full, %"):
        table.add_column(column, justify="right")
    for make in TASKS:
        task = make()
        for name, strategy in STRATEGIES.items():
            full: list[tuple[float, float]] = []
            for precision in PRECISIONS:
                found = [trained(task, seed, strategy=strategy, precision=precision) for seed in SEEDS]
                full = full or found
                right, loss = ([each[at] for each in found] for at in (0, 1))
                row = [_told([100 * each for each in right], 1), _told(loss, 4)]
                if precision != "full":  # seed by seed: what seeds differ by would hide it
                    pairs = [*zip(found, full, strict=True)]
                    row.append(_told([100 * (one[0] - other[0]) for one, other in pairs], 2))
                    row.append(_told([100 * (one[1] / other[1] - 1) for one, other in pairs], 3))
                table.add_row(task.name, name, precision, *row)
    console.print(table)


def _told(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"
