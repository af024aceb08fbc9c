"""A plan whose loss of several rows is made of each row's alone, and those that mix rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError
from cloister.worker.rows_apart import check_rows_apart

EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


def linear() -> nn.Module:
    return nn.Linear(6, 3)


def deep(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


def mean(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def total(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="sum")


def probability(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(x)[:, 0], y.float())


def centred(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x - x.mean(0)), y)


def scaled(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x / x.std(0)), y)


def weighted(model: Any, x: Tensor, y: Tensor) -> Tensor:
    weights = torch.softmax(x[:, 0], 0)
    return (F.cross_entropy(model(x), y, reduction="none") * weights).sum()


def contrasted(model: Any, x: Tensor, y: Tensor) -> Tensor:
    found = model(x)
    return F.cross_entropy(found @ found.T, torch.arange(x.shape[0])) + 0 * y.sum()


def check(loss: Any, model: nn.Module) -> None:
    torch.manual_seed(1)
    plan = cloister.plan(loss).capture(model, example=EXAMPLE)
    check_rows_apart(plan, parameters=dict(model.named_parameters()), buffers=dict(model.named_buffers()))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [mean, total, probability])
@pytest.mark.parametrize("model", [linear, deep, lambda: deep(nn.GroupNorm(2, 8)), lambda: deep(nn.LayerNorm(8))])
def test_a_loss_that_is_made_of_each_row_alone(loss: Any, model: Any) -> None:
    check(loss, model())


@pytest.mark.slow
@pytest.mark.parametrize("loss", [centred, scaled, weighted])
def test_a_loss_that_mixes_rows(loss: Any) -> None:
    with pytest.raises(PlanError, match="depends on the others in its batch"):
        check(loss, deep())


@pytest.mark.slow
def test_what_is_random_is_not_judged() -> None:
    check(mean, deep(nn.Dropout(0.5)))


@pytest.mark.slow
def test_what_cannot_be_run_on_made_up_rows_is_not_judged() -> None:
    """A row of it alone has no such label."""

    def picky(model: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x)[:, :1], y)

    check(picky, linear())


@pytest.mark.slow
def test_whoever_begins_a_study_of_such_a_loss_hears_of_it() -> None:
    noise, sampling = cloister.Noise(unit="record", multiplier=2.0, delta=1e-5), cloister.Sampling(rate=0.5, rows=20)
    given: dict[str, Any] = {
        "owners": {"bob": (torch.rand(30, 6), torch.zeros(30, dtype=torch.int64))},
        "optimizer": cloister.SGD(lr=0.5), "batch_size": 8, "steps": 1, "rounds": 1, "clip": 1.0,
    }  # fmt: skip
    with pytest.raises(PlanError, match="depends on the others in its batch"):
        cloister.simulate(linear(), cloister.plan(centred), noise=noise, sampling=sampling, **given)
    assert cloister.simulate(linear(), cloister.plan(centred), **given).finished
    normed = deep(nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(PlanError, match="cannot be run on one row"):
        cloister.simulate(normed, cloister.plan(mean), noise=noise, sampling=sampling, **given)
