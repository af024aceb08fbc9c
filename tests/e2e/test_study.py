"""Studies as they are: an aggregator and three owners' nodes as processes, and a researcher; killed at will.

What came out is compared to the last bit with a simulation of the same, or, where rounds were void on the way, with the
same trainings one after another: an owner's seed in a round depends on the round's number, and numbers of void rounds
are not used again.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.aggregation.mean import Sum
from cloister.aggregation.strategies import Strategy, apply_to_parameters
from cloister.ledger.audit import audit
from cloister.ledger.job import owner_seed
from cloister.ledger.jsonl import read_lines
from cloister.net.collateral import no_collateral
from cloister.study.history import History, Round
from cloister.study.job import describe, load
from cloister.study.study import Study, StudyRun
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy
from cloister.wire.layout import lay_out
from cloister.worker.data.rows import Arrays
from cloister.worker.training import train

pytestmark = pytest.mark.e2e

SIZES = {"alice": 60, "bob": 36, "carol": 16}
SHARE, CLIP = 0.5, 2.0
SGD = cloister.SGD(lr=0.1, momentum=0.9)
EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


PLAN = loss.capture(model(), example=EXAMPLE)


def data() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator)
    inputs = {name: torch.randn(rows, 6, generator=generator) for name, rows in SIZES.items()}
    return {name: (x, (x @ true).argmax(1)) for name, x in inputs.items()}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the nodes have it: sums over a batch are taken in another order by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStudy]:
    owners = {}
    for name, (x, y) in data().items():
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy())
        owners[name] = [LocalColumns(tmp_path / f"{name}.npz", ("x", "y"), ("#mri",))]
    limits = {
        "plans": [PLAN.digest],
        "first_model": cloister.model_digest(model()),
        "floor": 2,
        "largest_share": SHARE,
        "clip": CLIP,
        "rounds": 5000,
        "metrics": {"loss": (0.0, 100.0)},
    }
    with LocalStudy(tmp_path, owners, limits=limits) as running:
        running.start_aggregator()
        running.start()
        yield running


def fit(study: Study, start: nn.Module | None = None, **changed: Any) -> StudyRun:
    given: dict[str, Any] = {"data": "#mri", "optimizer": SGD, "batch_size": 8, "rounds": 4, "seed": 5}
    given = {"on_round": lambda done: None, "example": EXAMPLE, **given, **changed}
    return study.fit(start or model(), loss, **given)


def simulated(**changed: Any) -> nn.Module:
    given: dict[str, Any] = {"optimizer": SGD, "batch_size": 8, "rounds": 4, "seed": 5, **changed}
    return cloister.simulate(model(), loss, owners=data(), largest_share=SHARE, clip=CLIP, **given).model


def replayed(history: History, *, strategy: Strategy, start: nn.Module | None = None) -> nn.Module:
    """The rounds of a history, by their owners and shares, computed here."""
    trained = copy.deepcopy(start or model())
    parts, _, vector = describe(trained)
    places = lay_out({part.name: part.spec for part in parts}).places
    buffers = [slice(place.start, place.stop) for place, part in zip(places, parts, strict=True) if part.buffer]
    state = strategy.start(len(vector))
    for number, done in enumerate(history, 1):
        total = Sum(len(vector))
        load(vector, into=trained)
        for name in sorted(done.owners):
            x, y = data()[name]
            found = train(
                PLAN,
                Arrays({"x": x, "y": y}),
                parameters=dict(trained.named_parameters()),
                buffers=dict(trained.named_buffers()),
                optimizer=SGD,
                batch_size=8,
                local_epochs=1,
                seed=owner_seed(5, number=number, owner=name),
                clip=CLIP,
            )
            total.add(found.delta.numpy(), weight=done.weights[name])
        vector, state = apply_to_parameters(strategy, vector, mean=total.mean(), state=state, buffers=buffers)
    load(vector, into=trained)
    return trained


def same(one: nn.Module, other: nn.Module) -> bool:
    """In all that is learned, to the bit; a study leaves the count of batches as it was."""
    return describe(one).vector.tobytes() == describe(other).vector.tobytes()


class _GoneError(Exception):
    """The researcher's script ends."""


@pytest.mark.slow
def test_a_study_is_its_simulation_and_goes_on_without_its_researcher(local: LocalStudy) -> None:
    def leave(done: Round) -> None:
        if done.number == 2:
            raise _GoneError

    with pytest.raises(_GoneError):
        fit(local.study(), rounds=6, on_round=leave)
    run = fit(local.study(), rounds=6, evaluate=lambda found: {"weight": float(found[0].weight.detach().sum())})
    assert run.finished
    assert [done.number for done in run.history] == [1, 2, 3, 4, 5, 6]
    assert all(done.owners == ("alice", "bob", "carol") for done in run.history)
    assert all(max(done.weights.values()) == SHARE for done in run.history)
    assert set(run.history[-1].metrics) == {"loss"}
    assert same(run.model, simulated(rounds=6))
    elsewhere = fit(local.study(state=local.folder / "elsewhere"), rounds=6)
    assert same(elsewhere.model, run.model)
    more = fit(local.study(), run.model, rounds=2, strategy=cloister.FedAdam())
    assert [done.number for done in more.history] == [7, 8]
    assert same(more.model, replayed(more.history, strategy=cloister.FedAdam(), start=run.model))
    records = read_lines(local.study().chain.read_bytes().splitlines(keepends=True))
    report = audit(records, charter=local.charter, collateral=no_collateral, accept_simulated=True)
    assert report.contributed == dict.fromkeys(SIZES, 8)


@pytest.mark.slow
def test_an_aggregator_that_is_killed_is_gone_on_with(local: LocalStudy) -> None:
    def kill(done: Round) -> None:
        if done.number == 2:
            local.kill(AGGREGATOR)
            local.start_aggregator()

    run = fit(local.study(patience_s=60.0), strategy=cloister.FedAdam(lr=0.05), rounds=5, on_round=kill)
    assert run.finished
    numbers = [done.number for done in run.history]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 5
    assert same(run.model, replayed(run.history, strategy=cloister.FedAdam(lr=0.05)))
    if all(len(done.owners) == 3 for done in run.history):  # whatever the numbers of the rounds
        assert same(run.model, simulated(rounds=5, strategy=cloister.FedAdam(lr=0.05)))


@pytest.mark.slow
def test_an_owner_that_is_killed_takes_part_again_once_it_is_back(local: LocalStudy) -> None:
    seen: list[tuple[str, ...]] = []
    back: list[int] = []

    def watch(done: Round) -> None:
        seen.append(done.owners)
        if len(seen) == 1:
            local.kill("carol")
        elif len(seen) == 3:
            local.start("carol")
        elif len(seen) > 3 and "carol" in done.owners and not back:
            back.append(done.number)
            signal.raise_signal(signal.SIGINT)

    run = fit(local.study(patience_s=60.0), rounds=5000, on_round=watch)
    assert not run.finished
    assert seen[0] == ("alice", "bob", "carol")
    assert seen[2] == ("alice", "bob")
    assert back
    assert seen[-1] == ("alice", "bob", "carol")
    assert same(run.model, replayed(run.history, strategy=cloister.FedAvg()))
