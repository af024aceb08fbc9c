"""A plan that is written to fail on a record tells nothing of the record: neither by an error nor by the others' sum.

Whoever writes the plan may make it fail wherever a record holds what it looks for: by a table that is too small for it,
a label that there is not, a loss that is undefined or without bounds. Clipping bounds none of that: one owner's silence
would tell of one record. So where single records are protected, a record that cannot be computed counts as zeros, the
others count as they would have, and what an owner is told about it stays with the owner.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.wire.fixed_point import UNITS
from cloister.worker.data.poisson import Draw
from cloister.worker.data.rows import Arrays
from cloister.worker.flatten import floats_of, layout_of
from cloister.worker.plans import PlannedLoss
from cloister.worker.record_sums import RecordSums, Summed

ROWS, TARGET, SOUGHT = 12, 7, 77


def plan(step: Any) -> PlannedLoss:
    return cloister.plan(step)


def table(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """Rows of a table without the one that is looked for."""
    return (F.embedding(n, model.weight) * x[:, :1]).sum() / x.shape[0]


def picked(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """The same by indexing."""
    return (model.weight[n] * x[:, :1]).sum() / x.shape[0]


def gathered(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """A score that there is not."""
    return model(x).gather(1, n[:, None]).mean()  # type: ignore[no-any-return]


def scattered(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """Scores that are written where there is no place."""
    return torch.zeros(10, 10).scatter_add(0, n[:, None].expand(-1, 10), model(x)).square().sum() / x.shape[0]


def put(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """The same by indexing, with what is computed on the way."""
    return torch.zeros(10, 10).index_put((n * 2 - n,), model(x)).square().sum() / x.shape[0]


def label(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """A class that there is not."""
    return F.cross_entropy(model(x), n)


def probability(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """What is no probability is refused by the loss."""
    return F.binary_cross_entropy(model(x).sigmoid()[:, 0], n / 10)


def randomly(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """A class that there is not, in a plan that is run for one record after the other."""
    return F.cross_entropy(F.dropout(model(x), 0.2), n)


def infinite(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """A gradient that is not finite."""
    return (model(x).sum(1) * torch.exp(n * 2.0)).mean()  # type: ignore[no-any-return]


def undefined(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """A gradient that is not a number."""
    return (model(x).sum(1) * torch.sqrt(10.0 - n)).mean()  # type: ignore[no-any-return]


def loud(model: Any, x: Tensor, n: Tensor) -> Tensor:
    """A gradient that is larger than all others together, by far."""
    return (model(x).sum(1) * torch.exp(n * 1.0)).mean()  # type: ignore[no-any-return]


FAILING = (table, picked, gathered, scattered, put, label, probability, randomly, infinite, undefined)


def summed(step: Any, n: Tensor, drawn: Any) -> Summed:
    torch.manual_seed(0)
    model = nn.Linear(4, 10)
    x = torch.randn(ROWS, 4)
    sums = RecordSums(
        plan(step).capture(model, example=(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long))),
        parameters=dict(model.named_parameters()),
        buffers={},
        layout=layout_of(floats_of(model)),
        clip=0.5,
        rate=1.0,
        at_once=5,
        memory_bytes=1 << 24,
    )
    return sums.over(Arrays({"x": x, "n": n}), Draw(np.arange(ROWS), drawn), seed=3)


def held(*, sought: bool) -> Tensor:
    """What the records hold, the target among them."""
    n = torch.arange(ROWS) % 10
    n[TARGET] = SOUGHT if sought else 4
    return n


EVERYONE = np.ones(ROWS, np.bool_)
OTHERS = np.arange(ROWS) != TARGET


@pytest.mark.slow
@pytest.mark.parametrize("step", FAILING)
def test_a_record_on_which_a_plan_fails_counts_as_zeros(step: Any) -> None:
    got = summed(step, held(sought=True), EVERYONE)
    assert torch.equal(got.sums, summed(step, held(sought=False), OTHERS).sums)
    assert got.sums.any()
    assert got.left_out == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", [*FAILING, loud])
def test_a_record_that_is_not_drawn_tells_nothing_even_so(step: Any) -> None:
    """It is computed all the same, so that nobody can tell from the time."""
    sought, other = (summed(step, held(sought=each), OTHERS) for each in (True, False))
    assert torch.equal(sought.sums, other.sums)
    assert sought.left_out == other.left_out == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", [*FAILING, loud])
def test_what_is_looked_for_moves_a_sum_by_no_more_than_anything_else(step: Any) -> None:
    for sought in (True, False):
        moved = summed(step, held(sought=sought), EVERYONE).sums.long() - summed(step, held(sought=sought), OTHERS).sums
        assert int(moved.square().sum()) <= UNITS**2
