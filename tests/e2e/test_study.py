"""Studies as they are: an aggregator and three owners' nodes as processes, and a researcher; killed at will.

What came out is compared to the last bit with a simulation of the same, or, where owners were missing on the way, with
the same trainings one after another. So these are rehearsals: what chooses and orders an owner's rows is known here.
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
from cloister.aggregation.dominance import bound_of, scales_of
from cloister.aggregation.mean import Sum
from cloister.aggregation.strategies import Strategy, apply_to_parameters
from cloister.charter.jobs import AgreedJob
from cloister.ledger.audit import audit
from cloister.ledger.jsonl import read_lines
from cloister.net.collateral import no_collateral
from cloister.study.history import Round
from cloister.study.job import describe, load
from cloister.study.study import Study, StudyRun
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import seeds_of, simulated_salt
from cloister.worker.training import train

pytestmark = pytest.mark.e2e

SIZES = {"alice": 96, "bob": 40, "carol": 36}
SEED, FLOOR, SHARE, CLIP, CLIP_BUFFERS = 5, 2, 0.5, 2.0, 1.0
SGD = cloister.SGD(lr=0.1, momentum=0.9)
NUMBERS: dict[str, Any] = {"data": "#mri", "optimizer": SGD, "batch_size": 16, "steps": 6, "weights": "rows"}
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
LIMITS: dict[str, Any] = {
    "first_model": cloister.model_digest(model(), PLAN),
    "floor": FLOOR,
    "largest_share": SHARE,
    "clip": CLIP,
    "clip_buffers": CLIP_BUFFERS,
    "rounds": 5000,
    "min_examples": min(SIZES.values()),
    "row_buckets": sorted(SIZES.values())[1:],
    "metrics": {"loss": (0.0, 100.0)},
}


def agreed(name: str, **changed: Any) -> AgreedJob:
    """A job of the charter."""
    return cloister.job(name, PLAN, **{**NUMBERS, "rounds": 6, **changed})


JOBS = [
    agreed("train"),
    agreed("adapt", rounds=2, strategy=cloister.FedAdam()),
    agreed("interrupted", rounds=5, strategy=cloister.FedAdam(lr=0.05)),
    agreed("endless", rounds=5000),
    agreed("halved", precision="bfloat16", strategy=cloister.FedAvgM(momentum=0.5)),
]


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
    with LocalStudy(tmp_path, owners, jobs=JOBS, limits=LIMITS, rehearsal=SEED) as running:
        running.start_aggregator()
        running.start()
        running.gather()
        yield running


def fit(study: Study, start: nn.Module | None = None, **changed: Any) -> StudyRun:
    given = {"on_round": lambda done: None, "example": EXAMPLE, "rounds": 6, **NUMBERS, **changed}
    return study.fit(start or model(), loss, **given)


def simulated(run: StudyRun, *, floor: int = FLOOR, **changed: Any) -> nn.Module:
    """What the job of a run comes to where all owners are in all rounds."""
    given = {"rounds": len(run.history), **NUMBERS, **changed}
    del given["data"]
    return cloister.simulate(
        model(),
        loss,
        owners=data(),
        seed=SEED,
        job=run.receipts[0].cohort.job,
        floor=floor,
        largest_share=SHARE,
        clip=CLIP,
        clip_buffers=CLIP_BUFFERS,
        vectorise=False,
        **given,
    ).model


def replayed(run: StudyRun, *, strategy: Strategy, start: nn.Module | None = None) -> nn.Module:
    """The rounds of a run, by their owners and shares, computed here."""
    trained, job = copy.deepcopy(start or model()), run.receipts[0].cohort.job
    tensors, vector = describe(trained, PLAN)
    regions = tensors.regions
    state = strategy.start(len(vector))
    for number, done in enumerate(run.history, 1):
        load(vector, tensors=tensors, into=trained)
        found = {}
        for name in sorted(done.owners):
            x, y = data()[name]
            seeds = seeds_of(simulated_salt(SEED, name), job=job, number=number)
            found[name] = train(
                PLAN,
                Arrays({"x": x, "y": y}),
                parameters=dict(trained.named_parameters()),
                buffers=dict(trained.named_buffers()),
                optimizer=SGD,
                batch_size=16,
                steps=6,
                seed=seeds.steps,
                rows_seed=seeds.rows,
                clip=CLIP,
                clip_buffers=CLIP_BUFFERS,
            )
        norms = zip(*(each.norms for each in found.values()), strict=True)
        bounds = [
            bound_of(each, floor=FLOOR, clip=clip) for each, clip in zip(norms, (CLIP, CLIP_BUFFERS), strict=True)
        ]
        total = Sum(len(vector))
        for name, each in found.items():
            scales = scales_of(each.norms, bounds=bounds, regions=regions)
            total.add(each.delta.numpy(), weight=done.weights[name], scales=scales)
        mean = total.mean().astype(np.float32) if state.averages else total.mean()  # as it travels
        vector, state = apply_to_parameters(strategy, vector, mean=mean, state=state, buffers=regions.buffers)
    load(vector, tensors=tensors, into=trained)
    return trained


def same(one: nn.Module, other: nn.Module) -> bool:
    """In all that is learned, to the bit; a study leaves the count of batches as it was."""
    return describe(one, PLAN).vector.tobytes() == describe(other, PLAN).vector.tobytes()


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
    assert same(run.model, simulated(run))
    assert same(run.model, replayed(run, strategy=cloister.FedAvg()))
    elsewhere = fit(local.study(state=local.folder / "elsewhere"), rounds=6)
    assert same(elsewhere.model, run.model)
    more = fit(local.study(), run.model, rounds=2, strategy=cloister.FedAdam())
    assert [done.number for done in more.history] == [7, 8]
    assert same(more.model, replayed(more, strategy=cloister.FedAdam(), start=run.model))
    records = read_lines(local.study().chain.read_bytes().splitlines(keepends=True))
    report = audit(records, charter=local.charter, collateral=no_collateral, accept_simulated=True)
    assert report.contributed == dict.fromkeys(SIZES, 8)


@pytest.mark.slow
def test_a_study_in_two_bytes_a_value_is_its_simulation(local: LocalStudy) -> None:
    """Also where the aggregator dies: who holds the last model goes on from there, with steps."""
    halved: dict[str, Any] = {"precision": "bfloat16", "strategy": cloister.FedAvgM(momentum=0.5)}

    def kill(done: Round) -> None:
        if len(told) == 2:
            local.kill(AGGREGATOR)
            local.start_aggregator()
            local.gather()
        told.append(done)

    told: list[Round] = []
    run = fit(local.study(patience_s=60.0), rounds=6, on_round=kill, **halved)
    assert run.finished
    if all(len(done.owners) == 3 for done in run.history):
        assert same(run.model, simulated(run, **halved))
    assert not same(run.model, simulated(run, strategy=halved["strategy"]))
    assert same(fit(local.study(state=local.folder / "elsewhere"), rounds=6, **halved).model, run.model)


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
    assert same(run.model, replayed(run, strategy=cloister.FedAdam(lr=0.05)))
    if all(len(done.owners) == 3 for done in run.history):  # whatever the numbers of the rounds
        assert same(run.model, simulated(run, strategy=cloister.FedAdam(lr=0.05)))


@pytest.mark.slow
def test_a_restart_of_the_aggregator_needs_no_researcher(local: LocalStudy) -> None:
    def leave(done: Round) -> None:
        if done.number == 2:
            local.kill(AGGREGATOR)
            raise _GoneError

    with pytest.raises(_GoneError):
        fit(local.study(), rounds=6, on_round=leave)
    local.start_aggregator()
    assert local.found(AGGREGATOR, r"(\w+) has handed over the job that was under way", within_s=60.0) in SIZES
    local.found(AGGREGATOR, r"(the job is over after 6 rounds)", within_s=60.0)
    told: list[Round] = []
    run = fit(local.study(), rounds=6, on_round=told.append)
    assert run.finished
    assert len(run.history) == 6
    assert same(run.model, replayed(run, strategy=cloister.FedAvg()))
    for name in SIZES:
        local.found(name, r"(is over: all its rounds are released)", within_s=60.0)
    local.kill(AGGREGATOR)
    local.start_aggregator()
    assert fit(local.study(patience_s=60.0), rounds=6).finished  # nothing is gone on with that is over
    assert local.log(AGGREGATOR).count("has handed over the job") == 1


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
    assert same(run.model, replayed(run, strategy=cloister.FedAvg()))
