"""Noise and what it needs: drawing it, clipping each record's gradient, and how right a model is with it."""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from bench import accuracy
from bench.accuracy import entropy
from bench.measure import in_turn, show
from cloister.accounting.accountant import Spent, epsilon
from cloister.aggregation.discrete_gaussian import discrete_gaussian
from cloister.aggregation.noisy_sum import NoisySum
from cloister.testing.models import SAMPLES
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.record_sums import RecordSums

MILLION: Final = 1_000_000
ROWS, RATE, AT_ONCE = 2560, 0.1, 512
Z, CLIP, LR, DELTA = 2.0, 1.0, 0.1, 1e-5


def run(console: Console, folder: Path) -> None:
    """(t) to (v)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _draws(console)
        for name in ("mlp", "lenet"):
            _steps(console, name)
        _accuracy(console)
    finally:
        torch.set_num_threads(threads)


def _draws(console: Console) -> None:
    generator = np.random.default_rng(0)
    contenders: dict[str, Callable[[], object]] = {
        "NumPy's normal numbers": lambda: generator.normal(0, Z * UNITS, MILLION),
        "discrete Gaussian": lambda: discrete_gaussian(Z * UNITS, size=MILLION, random=os.urandom),
        "  of bytes that are there": lambda: discrete_gaussian(Z * UNITS, size=MILLION, random=generator.bytes),
    }
    timings = in_turn(contenders, repeats=21)
    show(console, "(t) a million draws of noise", timings, against="NumPy's normal numbers", unit="ms")


def _steps(console: Console, name: str) -> None:
    sample = SAMPLES[name]
    contenders = {
        "a batch as a whole, no noise": plain(sample.model(), sample.batch(ROWS)),
        "Opacus": opacus(sample.model(), sample.batch(ROWS)),
        "cloister": drawn(sample.model(), sample.batch(ROWS)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which Opacus gives of its hooks, in every step
        timings = in_turn(contenders, repeats=31, warm_up=3)
    title = f"(u) a step of {name} on about {RATE * ROWS:.0f} rows, each clipped by itself, with noise"
    show(console, title, timings, against="Opacus", aims={"cloister": "1.5x"}, unit="ms")


def plain(model: nn.Module, batch: Any) -> Callable[[], None]:
    """A step of SGD on rows that are drawn."""
    x, y = batch
    optimizer = torch.optim.SGD(model.parameters(), LR)

    def step() -> None:
        rows = torch.rand(ROWS) < RATE
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    return step


def opacus(model: nn.Module, batch: Any) -> Callable[[], None]:
    """The same with Opacus."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    x, y = batch
    private = GradSampleModule(model)
    optimizer = DPOptimizer(
        torch.optim.SGD(private.parameters(), LR),
        noise_multiplier=Z,
        max_grad_norm=CLIP,
        expected_batch_size=round(RATE * ROWS),
    )

    def step() -> None:
        rows = torch.rand(ROWS) < RATE
        optimizer.zero_grad()
        F.cross_entropy(private(x[rows]), y[rows]).backward()
        optimizer.step()

    return step


def drawn(model: nn.Module, batch: Any) -> Callable[[], None]:
    """The same as an owner and the enclave do it: as many rows are computed each time as may be drawn."""
    floats = deltas.floats_of(model)
    layout = deltas.layout_of(floats)
    data = Arrays(dict(zip(("x", "y"), batch, strict=True)))
    plan = entropy.capture(model, example=[each[:4] for each in batch])
    most = most_drawn(RATE * ROWS)

    def step() -> None:
        sums = RecordSums(
            plan,
            parameters=dict(model.named_parameters()),
            buffers={},
            layout=layout,
            clip=CLIP,
            rate=RATE,
            at_once=AT_ONCE,
            memory_bytes=1 << 30,
        ).run(data, key=os.urandom(32), most_rows=most)
        total = NoisySum(layout.length)
        total.add(sums.sums.numpy())
        mean = total.mean(multiplier=Z, scale=LR * CLIP / UNITS / (RATE * ROWS), random=os.urandom)
        moved = deltas.flatten(floats, layout=layout) + torch.from_numpy(mean).float()
        with torch.no_grad():
            deltas.unflatten(moved, layout=layout, into=floats)

    return step


def _accuracy(console: Console) -> None:
    contenders = {
        "cloister": accuracy.with_cloister,
        "Opacus": accuracy.with_opacus,
        "no noise": accuracy.without_noise,
    }
    table = Table(
        title=f"(v) right answers to unseen rows, %, with the standard error of {len(accuracy.SEEDS)} runs",
        title_justify="left",
    )
    for column in ("", "epsilon", *contenders):
        table.add_column(column, justify="right" if column else "left")
    for make in accuracy.TASKS:
        task = make()
        spent = epsilon([Spent(task.multiplier, task.rate, task.rounds)], delta=DELTA)
        found = [[100 * train(task, seed) for seed in accuracy.SEEDS] for train in contenders.values()]
        shown = (f"{statistics.mean(each):.1f} ± {statistics.stdev(each) / len(each) ** 0.5:.1f}" for each in found)
        table.add_row(task.name, f"{spent:.1f}", *shown)
    console.print(table)
