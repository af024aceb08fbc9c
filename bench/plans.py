"""Plans: a replayed step against a plain one, and what it takes to capture one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from bench.measure import in_turn, show
from cloister.testing.models import SAMPLES
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import PlannedLoss


@cloister.plan
def entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of a classifier."""
    return F.cross_entropy(model(x), y)


@cloister.plan
def squares(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of a regression."""
    return ((model(x) - y) ** 2).sum()


def contenders(
    loss: PlannedLoss, make: Callable[[], nn.Module], batch: Sequence[Tensor], declared: Optimizer
) -> dict[str, Callable[[], object]]:
    """One training step, its loss not read: in plain PyTorch, and replayed."""
    here, there = make(), make()
    optimizer = declared.make(list(here.parameters()))
    plan = loss.capture(there, example=tuple(batch))
    parameters, held = dict(there.named_parameters()), {"buffers": dict(there.named_buffers())}
    update = declared.over(parameters)

    def plain() -> None:
        optimizer.zero_grad()
        found: Any = loss.function(here, *batch)
        found.backward()
        optimizer.step()

    def replayed() -> None:
        outcome = plan.step(parameters, held["buffers"], batch, seed=1)
        held["buffers"] = outcome.buffers
        update.step(outcome.gradients)

    return {"plain loop": plain, "replay": replayed}


def run(console: Console, folder: Path) -> None:
    """(j) and (k)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _replays(console)
        _captures(console)
    finally:
        torch.set_num_threads(threads)


def _replays(console: Console) -> None:
    linear = (torch.randn(2, 2), torch.randn(2, 1))
    sgd = cloister.SGD(lr=0.01)
    timings = in_turn(contenders(squares, lambda: nn.Linear(2, 1), linear, sgd), repeats=101, calls=20, warm_up=20)
    show(console, "(j) a step of Linear(2, 1), SGD", timings, against="plain loop", aims={"replay": "1.00x"})
    sample = SAMPLES["lenet"]
    for declared in (sgd, cloister.Adam(lr=0.01)):
        timings = in_turn(contenders(entropy, sample.model, sample.batch(64), declared), repeats=31, calls=3, warm_up=5)
        title = f"(j) a step of LeNet, batch 64, {type(declared).__name__}"
        show(console, title, timings, against="plain loop", aims={"replay": "1.05x"}, unit="ms")


def _captures(console: Console) -> None:
    table = Table(title="(k) capture, and what is captured", title_justify="left")
    table.add_column("")
    for column in ("capture, s", "load, ms", "operations", "encoded, bytes"):
        table.add_column(column, justify="right")
    for name, sample in SAMPLES.items():
        model, batch = sample.model(), sample.batch(4)
        started = perf_counter()
        plan = entropy.capture(model, example=batch)
        captured = perf_counter()
        cloister.Plan.decode(plan.encode())
        loaded = perf_counter()
        operations = len(plan.program.lines)
        times = (f"{captured - started:.2f}", f"{(loaded - captured) * 1e3:.1f}")
        table.add_row(name, *times, f"{operations:,}", f"{len(plan.encode()):,}")
    console.print(table)
