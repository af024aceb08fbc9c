"""Behaviour 37: a process that inherits a worker by fork is refused in words, and the session goes on as if it were
not there."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cloister.errors import InheritedWorkerError, PointerNotPortableError
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import Connect, objs
from tests.support.nodes import SOURCES, Federation

# Python 3.12 and later warn of any fork in a process with threads; these tests are about such forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

HANGS_S = 60.0


def in_child(act: Callable[[], object]) -> str:
    """What ``act`` comes to in a forked process: the value's repr, or the exception. A child that hangs is ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = repr(act())
        except BaseException as fault:  # noqa: BLE001 - it is what the test wants to see
            said = f"{type(fault).__name__}: {fault}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            assert select.select([pipe], [], [], HANGS_S)[0], "the child hangs"
            return pipe.read().decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def refused(acts: Sequence[Callable[[], object]]) -> list[str]:
    """What the acts come to, one after the other."""
    came_to = []
    for act in acts:
        try:
            came_to.append(repr(act()))
        except Exception as fault:  # noqa: BLE001
            came_to.append(type(fault).__name__)
    return came_to


@pytest.mark.slow
def test_37_a_child_is_refused_in_words(b: Worker) -> None:
    q = torch.ones(3).send(b)
    q.sum().item()
    said = in_child(lambda: q.sum().item())
    assert said.startswith("InheritedWorkerError: worker b belongs to the process that opened its session")
    assert "num_workers=0" in said
    assert q.sum().item() == 3.0


@pytest.mark.slow
def test_37_whatever_a_child_does_is_refused_and_the_parent_is_untouched(b: Worker, a: Worker) -> None:
    p, model = torch.arange(4.0).send(b), nn.Linear(4, 2).send(b)
    q = a.ones(2)
    weight = model.weight.get(keep=True)
    queued = p * 2  # still here when the child is made; it leaves once, and from here
    before = objs(b), objs(a)
    queued.add_(1)
    acts: list[Callable[[], object]] = [
        lambda: p + 1,
        lambda: p.get(),
        lambda: queued.get(keep=True),
        lambda: p.add_(1),
        lambda: p.tolist(),
        lambda: p.move(a),
        lambda: q.move(b),
        lambda: copy.deepcopy(p),
        lambda: torch.ones(2).send(b),
        lambda: b.zeros(2),
        lambda: b.search("#a"),
        lambda: b.count(),
        lambda: b.flush(),
        lambda: model(p),
        lambda: model.get(),
        lambda: model.move(a),
        lambda: nn.Linear(1, 1).send(b),
        lambda: torch.zeros(4).copy_(p),
    ]
    if hasattr(b, "attest"):
        acts.append(lambda: b.attest())
    assert in_child(lambda: refused(acts)) == repr(["InheritedWorkerError"] * len(acts))
    assert (objs(b), objs(a)) == before
    assert queued.get().tolist() == [1.0, 3.0, 5.0, 7.0]
    assert p.move(a).get().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert torch.equal(model.get().weight, weight)


@pytest.mark.slow
def test_37_what_dies_in_a_child_is_not_freed(b: Worker) -> None:
    held = {number: torch.full((2,), float(number)).send(b) for number in range(100)}
    loop: list[Any] = [b.ones(2)]
    loop.append(loop)  # for the collector

    def die() -> str:
        held.clear()
        loop.clear()
        gc.collect()
        with b:  # its end closes nothing either
            pass
        return "dead"

    assert in_child(die) == "'dead'"
    assert objs(b) == 101
    assert sum(p.get().sum().item() for p in held.values()) == 2.0 * sum(range(100))
    held.clear()
    loop.clear()
    assert objs(b) == 0


@pytest.mark.slow
def test_37_a_lock_that_was_held_does_not_stop_the_child(b: Worker) -> None:
    p = b.ones(2)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with b._lock:
            held.set()
            assert let_go.wait(HANGS_S)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(HANGS_S)
        assert in_child(lambda: p.sum().item()).startswith("InheritedWorkerError")
    finally:
        let_go.set()
        thread.join()
    assert p.sum().item() == 2.0


@pytest.mark.slow
def test_37_a_child_may_connect_anew(b: Worker, connect: Connect) -> None:
    p = b.ones(2)
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()  # autograd has run here before the fork

    def train() -> object:
        own = connect("b")
        model.send(own)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 2).send(own)).pow(2).sum().backward()
            optimizer.step()
        try:
            p.sum().item()
        except InheritedWorkerError:
            model.get()
            own.close()
            return type(model.weight), model.weight.isfinite().all().item()

    assert in_child(train) == "(<class 'torch.nn.parameter.Parameter'>, True)"
    assert p.sum().item() == 2.0
    assert objs(b) == 1


# DataLoader


def loaded(data: Any, **options: Any) -> list[Any]:
    return list(DataLoader(data, num_workers=1, timeout=HANGS_S, multiprocessing_context="fork", **options))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["rows", "pointers", "pointers as they are"])
def test_37_a_dataloader_with_workers_over_pointers(b: Worker, way: str) -> None:
    x, y = torch.arange(60.0).view(20, 3), torch.arange(20)
    p, q = x.send(b), y.send(b)
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "rows": (TensorDataset(p, q), {"batch_size": 5}),
        "pointers": (list(p[:4]), {"batch_size": 2}),
        "pointers as they are": (list(p[:4]), {"batch_size": 2, "collate_fn": list}),
    }
    data, options = ways[way]
    held = objs(b)
    with pytest.raises(InheritedWorkerError, match=r"num_workers=0") as caught:
        loaded(data, **options)
    assert "lazy" not in str(caught.value)
    assert (p.sum().item(), objs(b)) == (x.sum().item(), held)
    rows = [len(batch) for batch in DataLoader(data, **options)]
    assert rows == ([2] * 4 if way == "rows" else [2] * 2)


@pytest.mark.slow
def test_37_a_dataloader_with_workers_over_local_tensors(b: Worker) -> None:
    x = torch.arange(60.0).view(20, 3)
    p = b.zeros(())
    for (batch,) in loaded(TensorDataset(x), batch_size=5):
        p += batch.send(b).sum()
    assert p.get() == x.sum()


def test_37_processes_that_are_spawned_take_no_pointer(b: Worker) -> None:
    p = b.ones(2)
    process = multiprocessing.get_context("spawn").Process(target=print, args=(p,))
    with pytest.raises(PointerNotPortableError, match=r"get\(\)"):
        process.start()


SCRIPT = """
import os, sys, torch, multiprocessing, cloister

bob = cloister.connect(sys.argv[1], identity=sys.argv[2], peer=sys.argv[3], connect_s=60.0, answer_s=60.0)
p, q = torch.ones(3).send(bob), bob.zeros(2)
print(p.sum().item(), bob.count().objects, flush=True)

def run():
    global q
    del q
    try:
        p.sum().item()
    except cloister.errors.InheritedWorkerError:
        print("refused", flush=True)

process = multiprocessing.get_context("fork").Process(target=run)
process.start()
process.join()
child = os.fork()
if child == 0:
    run()
    sys.exit()  # the whole of Python's end: exit handlers, finalizers, the last collection
os.waitpid(child, 0)
print(p.sum().item(), bob.count().objects, flush=True)
bob.close()
"""


@pytest.mark.e2e
@pytest.mark.slow
def test_37_a_childs_end_ends_nothing(three_nodes: Federation) -> None:
    node = three_nodes.nodes["b"]
    key = three_nodes.folder / "carol.key"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, node.address, key, node.fingerprint],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (ended.stdout.split(), ended.stderr) == (["3.0", "2", "refused", "refused", "3.0", "2"], "")
