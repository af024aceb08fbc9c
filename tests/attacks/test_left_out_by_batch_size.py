"""Attack: leave one owner out of a round by the numbers of a job, and take the difference to the round before.

With BatchNorm a last batch of one row cannot be trained. So a batch of 49 made an owner of 50 rows decline; and at a
low learning rate of the server two rounds start from almost the same model, so that two means that differ by an owner
give that owner's update. It takes two jobs: one batch size is what the owners of a study agree on, and whoever has rows
for it is in each of its rounds, since no batch is smaller than the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter import job_bounds
from cloister.errors import CharterError, ConfigurationError, DataSetError, JobError, PlanError
from cloister.study.job import describe
from cloister.testing.studies import LocalColumns, LocalStudy
from cloister.wire.layout import Regions
from cloister.wire.strategies import FedAvg
from cloister.worker.data.rows import Arrays
from cloister.worker.training import Trained, train
from tests.support import owners
from tests.support.charters import agreed_job

SIZES: Final = {"alice": 48, "bob": 40, "carol": 36, "dave": 50}
LEFT: Final = [name for name in SIZES if name != "dave"]
CLIP: Final = 1.0
EXAMPLE: Final = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))
SGD: Final = cloister.SGD(lr=0.1)


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


PLAN: Final = loss.capture(model(), example=EXAMPLE)


def data() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator)
    inputs = {name: torch.randn(rows, 6, generator=generator) for name, rows in SIZES.items()}
    return {name: (x, (x @ true).argmax(1)) for name, x in inputs.items()}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What owners can agree on


def test_no_charter_agrees_on_two_rounds_of_almost_one_model() -> None:
    fault = "lr is 0.001, and must be from 0.5 to 10 for FedAvg"
    assert [fault] == [text for _, text in job_bounds.faults(agreed_job(PLAN.digest, strategy=FedAvg(1e-3)))]
    with pytest.raises(CharterError, match=fault):
        owners.agree(job={"strategy": FedAvg(1e-3), "batch_size": 49})
    with pytest.raises(ConfigurationError, match=fault):
        cloister.job("slow", PLAN, **{**NUMBERS, "strategy": cloister.FedAvg(1e-3)})


# What a researcher's client can say instead

NUMBERS: Final[dict[str, Any]] = {"data": "#mri", "optimizer": SGD, "batch_size": 18, "steps": 2, "rounds": 2}


@pytest.mark.e2e
@pytest.mark.slow
def test_the_real_owners_take_part_in_each_round_of_the_one_job_that_there_is(tmp_path: Path) -> None:
    """Dave's 50 rows leave a part of a batch, which is not trained on, and leaves nobody out."""
    files = {}
    for name, (x, y) in data().items():
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy())
        files[name] = [LocalColumns(tmp_path / f"{name}.npz", ("x", "y"), ("#mri",))]
    limits = {
        "first_model": cloister.model_digest(model(), PLAN),
        "floor": 3,
        "largest_share": 0.5,
        "clip": CLIP,
        "clip_buffers": 10.0,
        "min_examples": 32,
    }
    with LocalStudy(tmp_path, files, jobs=[cloister.job("train", PLAN, **NUMBERS)], limits=limits) as local:
        local.start_aggregator()
        local.start()
        local.gather()
        study = local.study(patience_s=60.0)
        for batch_size in (49, 17):  # 17: two batches of the others' rows, and one row left of 35
            with pytest.raises(JobError, match=f"batch_size \\({batch_size}; the charter has 18\\)"):
                study.fit(model(), PLAN, **{**NUMBERS, "batch_size": batch_size})
        with pytest.raises(JobError, match=r"lr=0\.5"):
            study.fit(model(), PLAN, **{**NUMBERS, "strategy": cloister.FedAvg(0.5)})
        run = study.fit(model(), PLAN, on_round=lambda done: None, **NUMBERS)
        assert run.finished
        assert [sorted(done.weights) for done in run.history] == [sorted(SIZES)] * 2


# What comes of two jobs, and what of one


class Told(NamedTuple):
    """A round at a low rate of the server, as a researcher sees it: the model after it, and from it the mean."""

    model: nn.Module
    mean: Tensor


def test_without_the_rules_the_difference_is_the_update_of_whoever_was_left_out() -> None:
    """As it was: a last batch of what is left, the same seeds in both jobs, and a low rate of the server."""
    start, lr = model(), 0.01
    first = contributions(start, tuple(SIZES), batch_size=50, local_epochs=1)
    with pytest.raises(PlanError, match="leave one row for the last batch"):
        contributions(start, ["dave"], batch_size=49, local_epochs=1)
    one = after(start, first, lr=lr)
    two = after(one.model, contributions(one.model, LEFT, batch_size=49, local_epochs=1), lr=lr)
    found = len(SIZES) * one.mean - len(LEFT) * two.mean
    assert apart(found, parameters_of(first["dave"].delta)) < 0.01


def test_with_whole_batches_nobody_is_left_out_by_what_is_left_of_its_rows() -> None:
    """So what a researcher has of dave is a mean with all the others in it, in each round."""
    start = model()
    for batch_size in (16, 17, 18):  # all sizes for which the charter's members have rows; 17 leaves 50 one short
        found = contributions(start, tuple(SIZES), batch_size=batch_size, steps=2)
        mean = after(start, found, lr=1.0).mean
        assert apart(mean, parameters_of(found["dave"].delta)) > 0.1
    with pytest.raises(DataSetError, match="fewer rows than 2 batches of 49"):
        contributions(start, ["alice"], batch_size=49, steps=2)


def contributions(start: nn.Module, names: Sequence[str], **numbers: Any) -> dict[str, Trained]:
    """What owners find; each has one seed for all jobs, which is more than a researcher can hope for now."""
    return {
        name: train(
            PLAN,
            Arrays(dict(zip(("x", "y"), data()[name], strict=True))),
            parameters=dict(start.named_parameters()),
            buffers=dict(start.named_buffers()),
            optimizer=SGD,
            seed=list(SIZES).index(name),
            clip=CLIP,
            **numbers,
        )
        for name in names
    }


def regions() -> Regions:
    return describe(model(), PLAN).tensors.regions


def parameters_of(vector: Tensor) -> Tensor:
    return torch.cat([vector[each] for each in regions().parameters]).double()


def flat(of: nn.Module) -> Tensor:
    return parameters_of(torch.from_numpy(describe(of, PLAN).vector))


def after(start: nn.Module, found: Mapping[str, Trained], *, lr: float) -> Told:
    """The round's model, in float32 as it is released, and the mean that can be computed from it."""
    moved = model()
    moved.load_state_dict(start.state_dict())
    mean = sum(each.delta.double() for each in found.values()) / len(found)
    vector = torch.from_numpy(describe(start, PLAN).vector).double() + lr * mean
    held = {**dict(moved.named_parameters()), **dict(moved.named_buffers())}
    with torch.no_grad():
        for place in describe(start, PLAN).tensors.layout.places:
            held[place.name].copy_(vector[place.start : place.stop].view(held[place.name].shape))
    return Told(moved, (flat(moved) - flat(start)) / lr)


def apart(found: Tensor, true: Tensor) -> float:
    """How far it is off, by its length."""
    return float((found - true).norm() / true.norm())
