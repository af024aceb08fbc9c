"""The 2020 script's inner iteration: its time, its round trips, and the traffic and memory it takes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn, optim

from bench.measure import in_turn, show
from bench.proxy import DelayingProxy
from cloister.tensor.worker import Worker
from cloister.testing.federation import LocalFederation
from cloister.worker.virtual import VirtualWorker

DELAY_S = 0.05
_ITERATIONS = 10_000


def inner_iteration(worker: Worker | None, *, reads_loss: bool = True) -> Callable[[], Any]:
    """One of the script's inner iterations at ``worker``, or in plain PyTorch."""
    data: Any = torch.tensor([[0, 0], [0, 1.0]], requires_grad=True)
    target: Any = torch.tensor([[0], [0.0]], requires_grad=True)
    model: Any = nn.Linear(2, 1)
    if worker is not None:
        data, target, model = data.send(worker), target.send(worker), model.send(worker)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def iterate() -> Any:
        optimizer.zero_grad()
        prediction = model(data)
        loss = ((prediction - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        if worker is None:
            return loss.item() if reads_loss else loss
        return loss.get().data if reads_loss else loss

    return iterate


class Counting:
    """A channel that counts what passes through it."""

    def __init__(self, worker: Worker) -> None:
        self._channel = worker._channel
        self.fingerprint, self.network = self._channel.fingerprint, self._channel.network
        self.batches = self.questions = 0
        worker._channel = self

    def post(self, *args: Any) -> Any:
        self.batches += 1
        return self._channel.post(*args)

    def ask(self, *args: Any) -> Any:
        self.questions += 1
        return self._channel.ask(*args)

    def close(self) -> None:
        self._channel.close()

    def abandon(self) -> None:
        self._channel.abandon()


def run(console: Console, folder: Path) -> None:
    """(a), (e), (f) and (g) of the list in docs/measurements.md."""
    torch.set_num_threads(1)
    with LocalFederation(folder, ["secure", "alice", "bob"], session={"threads": 1}) as nodes:
        nodes.start("secure")
        nodes.start("alice", "bob")
        _time(console, nodes)
        _round_trips(console, nodes)
        _traffic(console, nodes)
        _memory(console, nodes)


def _time(console: Console, nodes: LocalFederation) -> None:
    with nodes.connect("bob") as bob:
        contenders = {
            "plain PyTorch": inner_iteration(None),
            "VirtualWorker": inner_iteration(VirtualWorker(id="bob")),
            "worker over TLS": inner_iteration(bob),
        }
        timings = in_turn(contenders, repeats=31, calls=50, warm_up=50)
    aims = {"VirtualWorker": "3x", "worker over TLS": "8x"}
    show(console, "(a) an inner iteration of the script, loss read", timings, against="plain PyTorch", aims=aims)


def _round_trips(console: Console, nodes: LocalFederation) -> None:
    for reads_loss in (True, False):
        with (
            DelayingProxy(nodes.nodes["bob"].address, delay_s=DELAY_S / 2) as cable,
            nodes.connect("bob", address=cable.address) as far,
            nodes.connect("bob") as near,
        ):
            counted = Counting(far)
            contenders = {
                "no delay": inner_iteration(near, reads_loss=reads_loss),
                "50 ms on every round trip": inner_iteration(far, reads_loss=reads_loss),
            }
            for contender in contenders.values():
                contender()
            before = counted.questions
            timings = in_turn(contenders, repeats=15, warm_up=5)
            trips = (counted.questions - before) / 20
        aim = {"50 ms on every round trip": "one round trip" if reads_loss else "none"}
        title = f"(e) an inner iteration, loss {'read' if reads_loss else 'not read'}: {trips:g} round trips"
        show(console, title, timings, against="no delay", aims=aim, unit="ms")


def _traffic(console: Console, nodes: LocalFederation) -> None:
    workers: list[Worker] = []
    with (
        DelayingProxy(nodes.nodes["bob"].address) as to_bob,
        DelayingProxy(nodes.nodes["alice"].address) as to_alice,
        DelayingProxy(nodes.nodes["secure"].address) as to_secure,
    ):
        cables = {"bob": to_bob, "alice": to_alice, "secure": to_secure}
        workers = [nodes.connect(name, address=cable.address) for name, cable in cables.items()]
        counted = [Counting(worker) for worker in workers]
        outer_rounds(workers, rounds=1)  # the first one sends the data too
        before = _totals(cables.values(), counted)
        rounds = 10
        outer_rounds(workers, rounds=rounds)
        after = _totals(cables.values(), counted)
        for worker in workers:
            worker.close()
    traffic, messages, trips = ((b - a) / rounds for a, b in zip(before, after, strict=True))
    console.print(
        "(f) an outer round of the script (two workers, five iterations each, two moves, an average): "
        f"{messages:.0f} messages, {trips:.0f} round trips, {traffic / 1024:.1f} KiB of TLS; "
        "the original took 344 messages\n"
    )


def _totals(cables: Iterable[DelayingProxy], counted: Sequence[Counting]) -> tuple[int, int, int]:
    """Bytes, messages and round trips so far."""
    questions = sum(channel.questions for channel in counted)
    messages = sum(channel.batches for channel in counted) + 2 * questions
    return sum(cable.sent + cable.received for cable in cables), messages, questions


def outer_rounds(workers: Sequence[Worker], *, rounds: int) -> None:
    """The script's outer loop."""
    bob, alice, secure = workers
    model: Any = nn.Linear(2, 1)
    data: Any = {worker: torch.rand(2, 2).send(worker) for worker in (bob, alice)}  # type: ignore[attr-defined]
    target: Any = {worker: torch.rand(2, 1).send(worker) for worker in (bob, alice)}  # type: ignore[attr-defined]
    for _ in range(rounds):
        models: Any = {worker: model.copy().send(worker) for worker in (bob, alice)}
        optimizers = {worker: optim.SGD(models[worker].parameters(), lr=0.1) for worker in (bob, alice)}
        for _ in range(5):
            for worker in (bob, alice):
                optimizers[worker].zero_grad()
                loss = ((models[worker](data[worker]) - target[worker]) ** 2).sum()
                loss.backward()
                optimizers[worker].step()
                loss.get()
        for worker in (alice, bob):
            models[worker].move(secure)
        with torch.no_grad():
            model.weight.set_(((models[alice].weight.data + models[bob].weight.data) / 2).get())
            model.bias.set_(((models[alice].bias.data + models[bob].bias.data) / 2).get())


def _memory(console: Console, nodes: LocalFederation) -> None:
    with nodes.connect("bob") as bob:
        executor = int(re.findall(r"opened, executor (\d+)", nodes.log("bob"))[-1])
        iterate = inner_iteration(bob)
        for _ in range(500):
            iterate()
        objects, before = bob.count().objects, (_resident(os.getpid()), _resident(executor))
        for _ in range(_ITERATIONS):
            iterate()
        after = (_resident(os.getpid()), _resident(executor))
        grown = bob.count().objects - objects
    console.print(
        f"(g) after {_ITERATIONS:,} iterations more: caller {(after[0] - before[0]) / 2**20:+.1f} MiB, "
        f"worker {(after[1] - before[1]) / 2**20:+.1f} MiB, {grown:+d} objects\n"
    )


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
