"""Trainings at a real node: an owner's data sets keep their gate, and nobody can leave a training behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import InteractiveRefusedError, MemoryLimitError, UnknownObjectError
from cloister.net.identity import Identity
from cloister.wire import sessions as m
from cloister.worker.values import as_bytes, spec_of
from tests.node.processes import PATIENCE_S, Caller, NodeProcess, gone, node

pytestmark = pytest.mark.e2e

DATA_SETS = """
[[data_sets]]
tags = ["#open", "{name}"]
file = "{folder}/open.npz"
tensor = "{name}"
unsafe_interactive = true
[[data_sets]]
tags = ["#closed", "{name}"]
file = "{folder}/closed.npz"
tensor = "{name}"
"""
SGD = cloister.SGD(lr=0.05)


@cloister.plan
def error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The squared error."""
    return F.mse_loss(model(x), y)


@pytest.fixture(scope="module")
def carol(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("carol") / "carol.key")


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory, carol: Identity) -> Iterator[NodeProcess]:
    """A node with one data set that is open to interactive use and one that is closed."""
    folder = tmp_path_factory.mktemp("bob")
    generator = np.random.default_rng(0)
    for name in ("open", "closed"):
        np.savez(folder / f"{name}.npz", x=generator.random((40, 3), "float32"), y=generator.random((40, 1), "float32"))
    sets = "".join(DATA_SETS.format(name=name, folder=folder) for name in "xy")
    limits = 'memory = "8 MiB"\nmax_sessions = 3\nspare_executors = 1\ngrace = "1 s"\nthreads = 1'
    with node(folder, researchers=[carol], session=limits, more=sets) as running:
        yield running


@pytest.fixture
def worker(bob: NodeProcess, carol: Identity) -> Iterator[cloister.RemoteWorker]:
    with cloister.connect(bob.address, identity=carol, peer=bob.fingerprint, connect_s=PATIENCE_S) as opened:
        yield opened  # type: ignore[misc]


def planned(model: nn.Module) -> cloister.Plan:
    return error.capture(model, example=(torch.zeros(4, 3), torch.zeros(4, 1)))


def test_an_owner_s_data_set_is_trained_on_only_where_it_is_open(worker: cloister.RemoteWorker) -> None:
    model = nn.Linear(3, 1)
    plan = planned(model)
    model.send(worker)  # type: ignore[operator]
    options: dict[str, Any] = {"model": model, "optimizer": SGD, "batch_size": 8, "local_epochs": 20}
    (x,), (y,) = worker.search("#open", "x"), worker.search("#open", "y")
    report = worker.train(plan, data=(x, y), **options)
    assert report.examples == 40
    assert report.losses[-1] < report.losses[0]
    with pytest.raises(InteractiveRefusedError, match="closed to interactive use"):
        worker.search("#closed", "x")
    guessed = m.Train(9999, (x.remote.id,), (), (9998, 9997), SGD.to_wire(), 8, 1, 0, 0.0, None)
    with pytest.raises(UnknownObjectError):
        worker.ask(guessed, m.Trained)
    assert worker.train(plan, data=(x, y), **options).loss < report.loss


def test_a_training_beyond_the_session_s_memory(worker: cloister.RemoteWorker) -> None:
    model = nn.Sequential(nn.Linear(3, 1 << 18), nn.Linear(1 << 18, 1, bias=False))
    plan = planned(model)
    model.send(worker)  # type: ignore[operator]
    x, y = torch.randn(8, 3).send(worker), torch.randn(8, 1).send(worker)  # type: ignore[attr-defined]
    with pytest.raises(MemoryLimitError):
        worker.train(plan, model=model, data=(x, y), optimizer=cloister.Adam(), batch_size=1)
    assert worker.count().objects >= 5


@pytest.mark.slow
def test_a_training_ends_with_the_connection_of_whoever_asked_for_it(bob: NodeProcess, carol: Identity) -> None:
    model = nn.Linear(3, 1)
    data = torch.frombuffer(bytearray(planned(model).encode()), dtype=torch.uint8)
    tensors = [data, model.weight.detach(), model.bias.detach(), torch.zeros(1 << 14, 3), torch.zeros(1 << 14, 1)]
    with Caller.open(bob, carol) as caller:
        puts = [m.Put(id, spec_of(each)) for id, each in enumerate(tensors, 1)]
        caller.batch(*puts, bodies=[bytes(as_bytes(each)) for each in tensors])
        assert caller.count() == 5
        # 4 million steps: hours.
        caller.post(m.Train(1, (2, 3), (), (4, 5), SGD.to_wire(), 1, 256, 0, 0.0, None))
        assert not gone(caller.executor, within_s=0.5)
    assert gone(caller.executor)
