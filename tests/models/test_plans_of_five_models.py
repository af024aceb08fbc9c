"""A replayed plan learns what plain PyTorch learns, to the last bit, over a hundred steps."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.testing.models import SAMPLES
from cloister.worker.optimizers import CosineDecay, Optimizer, StepDecay
from tests.rounding import plain_kernels

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

STEPS = 100
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": cloister.SGD(lr=0.05),
    "momentum": cloister.SGD(lr=0.02, momentum=0.9, weight_decay=1e-3),
    "adam": cloister.Adam(lr=0.01),
    "adamw": cloister.AdamW(lr=0.01),
    "schedule": cloister.SGD(lr=0.05, momentum=0.9, nesterov=True, schedule=StepDecay(every=30, factor=0.5)),
    "clipped": cloister.Adam(lr=0.01, clip_norm=0.5, schedule=CosineDecay(steps=STEPS)),
}


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


@cache
def captured(name: str) -> cloister.Plan:
    return loss.capture(SAMPLES[name].model(), example=SAMPLES[name].batch(4))


def plain(model: nn.Module, declared: Optimizer, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The training loop as everybody writes it; losses and accuracies."""
    optimizer = declared.make(list(model.parameters()))
    schedule = None if declared.schedule is None else declared.schedule.over(optimizer)
    seen = []
    for x, y in batches:
        optimizer.zero_grad()
        found: Any = loss(model, x, y)
        found["loss"].backward()
        if declared.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), declared.clip_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        seen += [found["loss"].detach(), found["accuracy"]]
    return seen


def replayed(
    plan: cloister.Plan, model: nn.Module, declared: Optimizer, batches: list[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """The same by replaying the plan."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    update = declared.over(parameters)
    seen = []
    for step, batch in enumerate(batches):
        outcome = plan.step(parameters, buffers, batch, seed=7, step=step)
        update.step(outcome.gradients)
        buffers = outcome.buffers
        seen += [outcome.loss, outcome.metrics["accuracy"]]
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_hundred_steps_are_the_same(name: str, optimizer: str) -> None:
    torch.manual_seed(3)
    here = SAMPLES[name].model()
    there = copy.deepcopy(here)
    batches = [
        SAMPLES[name].batch(4 if step % 10 == 9 else 6) for step in range(STEPS)
    ]  # the last of an epoch: smaller
    with plain_kernels():
        expected = plain(here, OPTIMIZERS[optimizer], batches)
        got = replayed(captured(name), there, OPTIMIZERS[optimizer], batches)
    assert all(map(torch.equal, expected, got))
    for (path, wanted), found in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        assert torch.equal(wanted, found), path
    assert not torch.equal(expected[0], expected[-2])


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_so_it_is_with_the_processor_s_own_kernels(name: str) -> None:
    """Where plain PyTorch fuses (attention, LSTM), sums are taken in another order; elsewhere all is the same."""
    torch.manual_seed(4)
    here = SAMPLES[name].model()
    there = copy.deepcopy(here)
    batches = [SAMPLES[name].batch(6) for _ in range(10)]
    expected = plain(here, OPTIMIZERS["momentum"], batches)
    got = replayed(captured(name), there, OPTIMIZERS["momentum"], batches)
    if name in ("lstm", "transformer"):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    else:
        assert all(map(torch.equal, expected, got))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_and_so_it_is_through_pointers(name: str) -> None:
    torch.manual_seed(5)
    here = SAMPLES[name].model()
    bob = cloister.VirtualWorker(id="bob")
    there = copy.deepcopy(here).send(bob)  # type: ignore[operator]
    batches = [SAMPLES[name].batch(6) for _ in range(5)]
    sent: Any = [(x.send(bob), y.send(bob)) for x, y in batches]  # type: ignore[attr-defined]
    got = replayed(captured(name), here, OPTIMIZERS["adam"], batches)
    expected = [value.get() for value in plain(there, OPTIMIZERS["adam"], sent)]  # type: ignore[attr-defined]
    if name == "lstm":  # on a CPU, PyTorch's LSTM multiplies all steps' inputs at once; for pointers, one by one
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    else:
        assert all(map(torch.equal, expected, got))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_a_plan_is_named_alike_whatever_the_example(name: str) -> None:
    torch.manual_seed(6)
    again = loss.capture(SAMPLES[name].model(), example=SAMPLES[name].batch(2))
    assert again.digest == captured(name).digest
    assert cloister.Plan.decode(captured(name).encode()) == again
