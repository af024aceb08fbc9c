"""Steps that several tests capture and replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.tensor.plan.encoding import decode
from cloister.tensor.plan.program import Program


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


@cloister.plan
def squares(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) ** 2).mean()


def rows(*shape: int, size: int = 4) -> tuple[Tensor]:
    return (torch.zeros(size, *shape),)


def program(model: nn.Module | None = None, example: Sequence[Tensor] | None = None) -> Program:
    """The program of a small step, to be changed and encoded again."""
    plan = squares.capture(model or nn.Linear(3, 2), example=example or rows(3))
    return decode(plan.encode())


def step(plan: cloister.Plan, model: nn.Module, *batch: Tensor, **clock: int) -> Any:
    return plan.step(dict(model.named_parameters()), dict(model.named_buffers()), batch, **clock)


def assert_same_as_plain(plan: cloister.Plan, function: Any, model: nn.Module, *batch: Tensor) -> Any:
    """One step of the plan and one of plain PyTorch, from the same state: the same to the last bit."""
    outcome = step(plan, model, *batch)
    found = function(model, *batch)
    expected = found if isinstance(found, Tensor) else found["loss"]
    expected.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(outcome.loss, expected)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(outcome.gradients)
    for name, gradient in outcome.gradients.items():
        assert torch.equal(gradient, model.get_parameter(name).grad), name
        assert gradient.stride() == model.get_parameter(name).grad.stride(), name
    for name, buffer in model.named_buffers():
        assert torch.equal(outcome.buffers[name], buffer), name
    return outcome
