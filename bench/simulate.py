"""Simulated runs against the same training in a plain loop, and how many owners of a tiny model train in a second."""

from __future__ import annotations

import copy
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from bench.measure import in_turn, show
from cloister.study.history import Round
from cloister.testing.models import SAMPLES

ROUNDS, BATCH = 10, 32
TINY = 500


@cloister.plan
def entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of a classifier."""
    return F.cross_entropy(model(x), y)


def quiet(done: Round) -> None:
    """No line for each round."""


def plain(start: nn.Module, owners: dict[str, tuple[Tensor, Tensor]]) -> nn.Module:
    """FedAvg as one writes it in an afternoon; owners have equally many rows."""
    whole = copy.deepcopy(start)
    local = copy.deepcopy(start)
    for _ in range(ROUNDS):
        total = {name: torch.zeros_like(value) for name, value in whole.state_dict().items()}
        for x, y in owners.values():
            local.load_state_dict(whole.state_dict())
            optimizer = torch.optim.SGD(local.parameters(), 0.05, 0.9)
            for rows in torch.randperm(len(x)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(local(x[rows]), y[rows]).backward()
                optimizer.step()
            for name, value in local.state_dict().items():
                total[name] += value / len(owners)
        whole.load_state_dict(total)
    return whole


def run(console: Console, folder: Path) -> None:
    """(l) and (m)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _convolutions(console)
        _owners(console)
    finally:
        torch.set_num_threads(threads)


def _convolutions(console: Console) -> None:
    sample = SAMPLES["lenet"]
    model = sample.model()
    owners = {name: sample.batch(1000) for name in ("alice", "bob")}
    sgd = cloister.SGD(lr=0.05, momentum=0.9)
    plan = entropy.capture(model, example=sample.batch(4))
    contenders = {
        "plain loop": lambda: plain(model, owners),
        "simulate": lambda: cloister.simulate(
            model, plan, owners=owners, optimizer=sgd, batch_size=BATCH, rounds=ROUNDS, on_round=quiet
        ),
    }
    timings = in_turn(contenders, repeats=5)
    title = f"(l) FedAvg of LeNet: 2 owners x {ROUNDS} rounds x 1,000 samples"
    show(console, title, timings, against="plain loop", aims={"simulate": "1.05x"}, unit="s")


def _owners(console: Console) -> None:
    sample = SAMPLES["mlp"]
    owners = {str(at): sample.batch(20) for at in range(TINY)}
    model = nn.Linear(20, 5)
    plan = entropy.capture(model, example=sample.batch(4))
    rates = []
    for _ in range(3):
        started = perf_counter()
        cloister.simulate(
            model, plan, owners=owners, optimizer=cloister.SGD(lr=0.1), batch_size=20, rounds=2, on_round=quiet
        )
        rates.append(2 * TINY / (perf_counter() - started))
    console.print(f"(m) owners per second, each one step of Linear(20, 5) on 20 samples: {sorted(rates)[1]:,.0f}\n")
