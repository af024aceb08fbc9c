"""Whatever a step is composed of: if it is found to average, it does not change when rows trade places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError
from cloister.plans.look import look
from tests.laws import examples
from tests.tensor.plan.steps import step

Move = Callable[[Tensor, Tensor, Tensor, int], Any]


def written(a: Tensor, place: Any) -> Tensor:
    copy = a.clone()
    copy[place] = 0.25
    return copy


MOVES: tuple[Move, ...] = (
    lambda a, b, y, d: a.transpose(0, d),
    lambda a, b, y, d: a.reshape(-1),
    lambda a, b, y, d: a.reshape(len(y), -1),
    lambda a, b, y, d: a.reshape(-1, (2, 3, 6, len(y))[d]),
    lambda a, b, y, d: a + b,
    lambda a, b, y, d: a * b,
    lambda a, b, y, d: a @ b,
    lambda a, b, y, d: a.sum(d),
    lambda a, b, y, d: a.mean(d, keepdim=True),
    lambda a, b, y, d: torch.relu(a),
    lambda a, b, y, d: a.softmax(d),
    lambda a, b, y, d: a.select(d, 1),
    lambda a, b, y, d: a.narrow(d, 0, 2),
    lambda a, b, y, d: torch.cat([a, a], d),
    lambda a, b, y, d: torch.cat([a, b], d),
    lambda a, b, y, d: torch.stack([a, b], d),
    lambda a, b, y, d: a.unsqueeze(d),
    lambda a, b, y, d: a.squeeze(),
    lambda a, b, y, d: a.flip(d),
    lambda a, b, y, d: a.expand(3, *a.shape),
    lambda a, b, y, d: a.unflatten(d, (2, -1)),
    lambda a, b, y, d: a.t(),
    lambda a, b, y, d: torch.arange(len(y)) * 1.0,
    lambda a, b, y, d: torch.ones(len(y), 6).cumsum(d),
    lambda a, b, y, d: a[torch.arange(len(y)), y],
    lambda a, b, y, d: a.gather(d, y[:, None]),
    lambda a, b, y, d: torch.zeros(3, 6).index_add(0, y, a),
    lambda a, b, y, d: torch.zeros(len(y), 3).scatter_add(1, y[:, None], a),
    lambda a, b, y, d: a.max(d).values,
    lambda a, b, y, d: written(a, (0, slice(None), slice(0, 1))[d]),
    lambda a, b, y, d: F.layer_norm(a, a.shape[-1:]),
)
moves = st.tuples(st.sampled_from(MOVES), st.integers(0, 7), st.integers(0, 7), st.integers(0, 2))


def composed(chosen: list[tuple[Move, int, int, int]]) -> Callable[..., dict[str, Tensor]]:
    """A step that makes tensors of others, by these moves as far as they fit, and reports the last one in two ways."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        pool = [model(x), x * 0.5 + 1]
        for move, one, other, dim in chosen:
            try:
                made = move(pool[-1 - one % len(pool)], pool[-1 - other % len(pool)], y, dim)
            except (RuntimeError, IndexError, ValueError):
                continue
            if made.numel() < 4096 and made.dim() < 6:
                pool.append(made)
        return {"loss": model(x).mean(), "mean": pool[-1].mean(), "squares": (pool[-1] ** 2).mean()}

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@given(st.lists(moves, min_size=1, max_size=12))
@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow])
def test_what_averages_is_the_same_in_any_order(chosen: list[tuple[Move, int, int, int]]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    example = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))
    try:
        plan = cloister.plan(composed(chosen)).capture(model, example=example)
    except PlanError:
        return
    if not look(plan.program).averages:
        return
    x, y, order = torch.rand(7, 6), torch.randint(3, (7,)), torch.randperm(7)
    try:
        first, second = step(plan, model, x, y), step(plan, model, x[order], y[order])
    except PlanError:  # some steps do not fit every batch
        return
    for name in first.metrics:
        torch.testing.assert_close(first.metrics[name], second.metrics[name], rtol=1e-3, atol=1e-5, equal_nan=True)
