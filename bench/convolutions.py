"""A CNN trained in a study of two owners' nodes, against the same training in two plain processes.

``python -m bench.convolutions FILE`` is one of those: it is given a model's values on standard input each round, trains
on the file's rows and answers with its model's values.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.nn import functional as F

import cloister
from bench.measure import Timing, show
from bench.simulate import BATCH, entropy
from cloister.study.history import Round
from cloister.testing.models import SAMPLES
from cloister.testing.studies import LocalColumns, LocalStudy

ROUNDS, ROWS, TURNS = 10, 1024, 3
OWNERS = ("alice", "bob")
LR, MOMENTUM = 0.05, 0.9


def run(console: Console) -> None:
    """(q)."""
    plain, studied = [], []
    for _ in range(TURNS):
        with tempfile.TemporaryDirectory(prefix="cloister-bench-") as name:
            folder = Path(name)
            for owner in OWNERS:
                x, y = SAMPLES["lenet"].batch(ROWS)
                np.savez(folder / f"{owner}.npz", x=x.numpy(), y=y.numpy())
            plain.append(_plain(folder))
            studied.append(_studied(folder))
    timings = {"two plain processes": Timing(tuple(plain)), "study": Timing(tuple(studied))}
    title = f"(q) a round of FedAvg of LeNet: 2 owners' processes, {ROWS:,} samples each, one thread each"
    show(console, title, timings, against="two plain processes", aims={"study": "1.15x"}, unit="ms")


def _studied(folder: Path) -> float:
    """The median of a round's seconds, without the first, for which nodes get ready."""
    sample, seconds = SAMPLES["lenet"], []
    model, example = sample.model(), sample.batch(4)
    plan = entropy.capture(model, example=example)
    limits = {"first_model": cloister.model_digest(model, plan), "clip": 1e3}
    numbers: Any = {
        "data": "#bench",
        "optimizer": cloister.SGD(lr=LR, momentum=MOMENTUM),
        "batch_size": BATCH,
        "steps": ROWS // BATCH,
        "rounds": ROUNDS + 1,
    }
    agreed = cloister.job("bench", plan, **numbers)
    owners = {owner: [LocalColumns(folder / f"{owner}.npz", ("x", "y"), ("#bench",))] for owner in OWNERS}

    def note(done: Round) -> None:
        seconds.append(done.took_s)

    with LocalStudy(folder, owners, jobs=[agreed], limits=limits) as running:
        running.start_aggregator()
        running.start()
        running.study().fit(model, entropy, example=example, on_round=note, **numbers)
    return statistics.median(seconds[1:])


def _plain(folder: Path) -> float:
    """The same, with the processes' models averaged here."""
    me = [sys.executable, "-m", "bench.convolutions"]
    values = _vector(SAMPLES["lenet"].model())
    seconds = []
    with ExitStack() as running:
        owners = [
            running.enter_context(
                subprocess.Popen([*me, str(folder / f"{owner}.npz")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for owner in OWNERS
        ]
        for _ in range(ROUNDS + 1):
            started = perf_counter()
            for owner in owners:
                assert owner.stdin is not None
                owner.stdin.write(values.tobytes())
                owner.stdin.flush()
            trained = []
            for owner in owners:
                assert owner.stdout is not None
                trained.append(np.frombuffer(owner.stdout.read(values.nbytes), np.float32))
            values = np.stack(trained).mean(axis=0, dtype=np.float32)
            seconds.append(perf_counter() - started)
        for owner in owners:
            owner.communicate()
    return statistics.median(seconds[1:])


def _vector(model: torch.nn.Module) -> np.ndarray:
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()


def train(file: Path) -> None:
    """One owner, as one writes it in an afternoon."""
    torch.set_num_threads(1)
    rows = np.load(file)
    x, y = torch.from_numpy(rows["x"]), torch.from_numpy(rows["y"])
    model = SAMPLES["lenet"].model()
    nbytes = _vector(model).nbytes
    while values := sys.stdin.buffer.read(nbytes):
        vector = torch.frombuffer(bytearray(values), dtype=torch.float32)
        torch.nn.utils.vector_to_parameters(vector, model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM)
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        sys.stdout.buffer.write(_vector(model).tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    train(Path(sys.argv[1]))
