"""Tensors that a step makes of the batch's size, at sizes that were not captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cloister
from cloister.errors import PlanError
from tests.tensor.plan.steps import step

EXAMPLE = (torch.zeros(4, 3),)


def number(x: Tensor) -> Tensor:
    return torch.tensor(len(x))


def float_number(x: Tensor) -> Tensor:
    return torch.tensor(2.0 * len(x) + 1)


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape).prod()


def table(x: Tensor) -> Tensor:
    return (torch.tensor([[len(x), 2], [3, len(x) - 1]]) * torch.arange(1, 5).reshape(2, 2)).sum()


def written(x: Tensor) -> Tensor:
    return torch.tensor([len(x), 1]).add_(1).sum()


@pytest.mark.parametrize("made", [number, float_number, shape, table, written])
def test_what_is_made_of_the_batch_s_size_follows_it(made: Callable[[Tensor], Tensor]) -> None:
    def loss(model: nn.Module, x: Tensor) -> Any:
        return {"loss": model(x).sum() / made(x), "made": made(x) * 1}

    model = nn.Linear(3, 1)
    plan = cloister.plan(loss).capture(model, example=EXAMPLE)
    for rows in (1, 4, 30):
        x = torch.ones(rows, 3)
        outcome = step(plan, model, x)
        assert outcome.metrics["made"] == made(x)
        torch.testing.assert_close(outcome.loss, loss(model, x)["loss"].detach())


def test_a_size_alone_is_a_number_that_the_step_reports() -> None:
    plan = cloister.plan(lambda model, x: {"loss": model(x).sum(), "rows": torch.tensor(len(x))}).capture(
        nn.Linear(3, 1), example=EXAMPLE
    )
    assert not plan.program.constants
    assert step(plan, nn.Linear(3, 1), torch.ones(7, 3)).metrics["rows"] == 7


@pytest.mark.parametrize("made", [lambda x: 1 / len(x), lambda x: len(x) // 2, lambda x: float("nan")])
def test_what_follows_it_otherwise_is_refused(made: Callable[[Tensor], Any]) -> None:
    def loss(model: nn.Module, x: Tensor) -> Any:
        return model(x).sum() * torch.tensor([made(x), float(len(x))]).sum()

    with pytest.raises(PlanError, match="differs with the batch size or from call to call"):
        cloister.plan(loss).capture(nn.Linear(3, 1), example=EXAMPLE)


def test_a_gradient_is_copied_into_its_parameter_s_layout_in_one_line() -> None:
    model = nn.Sequential()
    model.kernel = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    plan = cloister.plan(lambda model, x: (x @ model.kernel.T).pow(2).sum()).capture(model, example=EXAMPLE)
    assert not any("new_empty_strided" in line.op for line in plan.program.lines)
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]])
    (x @ model.kernel.T).pow(2).sum().backward()
    torch.testing.assert_close(step(plan, model, x).gradients["kernel"], model.kernel.grad)
