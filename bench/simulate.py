"""Simulated runs against the same training in a plain loop; how many owners of a tiny model train in a second, and what
memory they take."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from bench.measure import in_turn, show
from cloister.study.history import Round
from cloister.testing.models import SAMPLES

ROUNDS, BATCH = 10, 32
TINY = {"replayed": (500, 2), "vectorised": (10_000, 5)}
"""Owners and rounds."""
CROWDS = (100, 1_000, 10_000)


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
    """(l) to (n)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _convolutions(console)
        _owners(console)
        _memory(console)
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


def crowd(count: int, *, rounds: int, vectorise: bool) -> None:
    """Linear(20, 5), one step on 20 samples for each owner and round; all owners' rows are views of one tensor."""
    x, y = torch.randn(count, 20, 20), torch.randint(5, (count, 20))
    owners = {str(at): rows for at, rows in enumerate(zip(x, y, strict=True))}
    model = nn.Linear(20, 5)
    plan = entropy.capture(model, example=(x[0], y[0]))

    def run(names: Iterable[str], rounds: int) -> bool:
        some = {name: owners[name] for name in names}
        optimizer = cloister.SGD(lr=0.1)
        done = cloister.simulate(
            model,
            plan,
            owners=some,
            optimizer=optimizer,
            batch_size=20,
            rounds=rounds,
            vectorise=vectorise,
            on_round=quiet,
        )
        return done.vectorised

    before = _peak()
    run(list(owners)[:10], 1)  # what PyTorch imports and prepares when it is first needed
    started = perf_counter()
    vectorised = run(owners, rounds)
    seconds = perf_counter() - started
    assert vectorised is vectorise
    print(count * rounds / seconds, before, _peak())


def _peak() -> float:
    """The most memory that this process has held, in MiB. What getrusage says counts the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _crowd(count: int, *, rounds: int, vectorise: bool) -> tuple[float, float, float]:
    """Owners per second, and the peak of memory before and after, of ``crowd`` in a process of its own."""
    script = f"from bench.simulate import crowd, torch; torch.set_num_threads(1); crowd({count}, rounds={rounds}, "
    command = [sys.executable, "-c", f"{script}vectorise={vectorise})"]
    rate, before, after = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return float(rate), float(before), float(after)


def _owners(console: Console) -> None:
    for name, (count, rounds) in TINY.items():
        rates = [_crowd(count, rounds=rounds, vectorise=name == "vectorised")[0] for _ in range(5)]
        spread = f"{sorted(rates)[2]:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        console.print(f"(m) owners per second, {name}, each one step of Linear(20, 5) on 20 samples: {spread}")
    console.print()


def _memory(console: Console) -> None:
    table = Table(title="(n) peak memory, MiB: with the owners' data, and what simulate adds", title_justify="left")
    for column in ("owners", "", "before", "added"):
        table.add_column(column, justify="right")
    for name in TINY:
        for count in CROWDS:
            _, before, after = _crowd(count, rounds=1, vectorise=name == "vectorised")
            table.add_row(f"{count:,}", name, f"{before:,.0f}", f"{after - before:,.1f}")
    console.print(table)
