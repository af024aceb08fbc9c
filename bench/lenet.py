"""A training step with some work in it: LeNet, batch 64."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.nn import functional as F

from bench.measure import in_turn, show
from cloister.tensor.worker import Worker
from cloister.testing.federation import LocalFederation
from cloister.testing.models import SAMPLES


def step(worker: Worker | None) -> Callable[[], Any]:
    """One SGD step, its loss read."""
    sample = SAMPLES["lenet"]
    model: Any = sample.model()
    inputs: Any
    inputs, labels = sample.batch(64)
    if worker is not None:
        inputs, labels, model = inputs.send(worker), labels.send(worker), model.send(worker)  # type: ignore[attr-defined]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run_step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run_step


def run(console: Console, folder: Path) -> None:
    """(b)."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    with LocalFederation(folder, ["bob"], session={"threads": threads}) as nodes:
        nodes.start("bob")
        with nodes.connect("bob") as bob:
            timings = in_turn(
                {"plain PyTorch": step(None), "worker over TLS": step(bob)}, repeats=41, calls=3, warm_up=10
            )
    show(
        console,
        "(b) a LeNet step, batch 64",
        timings,
        against="plain PyTorch",
        aims={"worker over TLS": "1.15x"},
        unit="ms",
    )
