"""Declared optimizers: numbers that are checked, and ``torch.optim`` behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

import cloister
from cloister.errors import ConfigurationError
from cloister.wire import optimizers as wire
from cloister.worker.optimizers import CosineDecay, Optimizer, StepDecay, read


@pytest.mark.parametrize(
    ("declared", "plain"),
    [
        (cloister.SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            cloister.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        (
            cloister.SGD(lr=0.1, momentum=0.9, dampening=0.5),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        ),
        (cloister.Adam(), lambda p: torch.optim.Adam(p)),
        (
            cloister.Adam(lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1, amsgrad=True),
            lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1, amsgrad=True),
        ),
        (cloister.AdamW(lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)),
    ],
)
def test_the_numbers_reach_torch_optim(declared: Optimizer, plain: Callable[[Any], torch.optim.Optimizer]) -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    made, expected = declared.make(parameters), plain(parameters)
    assert type(made) is type(expected)
    assert made.defaults == expected.defaults


def test_an_update_clips_steps_and_follows_its_schedule() -> None:
    weight = nn.Parameter(torch.zeros(2))
    idle = nn.Parameter(torch.ones(1))
    update = cloister.SGD(lr=1.0, clip_norm=1.0, schedule=StepDecay(every=1, factor=0.5)).over({"w": weight, "i": idle})
    for _ in range(3):
        update.step({"w": torch.tensor([3.0, 4.0])})
    torch.testing.assert_close(weight.detach(), -1.75 * torch.tensor([0.6, 0.8]))
    assert idle.item() == 1.0
    assert weight.grad is None


def test_half_a_cosine() -> None:
    weight = nn.Parameter(torch.zeros(()))
    update = cloister.SGD(lr=1.0, schedule=CosineDecay(steps=4, lowest=0.0)).over({"w": weight})
    seen = []
    for _ in range(7):
        before = weight.item()
        update.step({"w": torch.tensor(1.0)})
        seen.append(before - weight.item())
    assert seen == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466, 0.0, 0.0, 0.0], abs=1e-6)


def test_half_a_cosine_from_nothing_is_nothing() -> None:
    update = cloister.SGD(lr=0.0, schedule=CosineDecay(steps=2, lowest=0.0)).over(
        {"w": (w := nn.Parameter(torch.zeros(())))}
    )
    update.step({"w": torch.tensor(1.0)})
    assert w.item() == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cloister.SGD(lr=-1.0),
        lambda: cloister.SGD(lr=float("nan")),
        lambda: cloister.SGD(lr=10**400),
        lambda: cloister.SGD(lr="0.1"),  # type: ignore[arg-type]
        lambda: cloister.SGD(lr=True),
        lambda: cloister.SGD(lr=0.1, nesterov=True),
        lambda: cloister.SGD(lr=0.1, clip_norm=0.0),
        lambda: cloister.SGD(lr=0.1, schedule="cosine"),  # type: ignore[arg-type]
        lambda: cloister.Adam(betas=(0.9, 1.0)),
        lambda: cloister.Adam(betas=(0.9,)),  # type: ignore[arg-type]
        lambda: cloister.AdamW(eps=-1e-8),
        lambda: StepDecay(every=0),
        lambda: StepDecay(every=10, factor=2.0),
        lambda: CosineDecay(steps=1.5),  # type: ignore[arg-type]
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        wrong()


@pytest.mark.parametrize(
    "declared",
    [
        cloister.SGD(lr=1, momentum=0.9, nesterov=True, clip_norm=2, schedule=StepDecay(every=3, factor=0.5)),
        cloister.Adam(amsgrad=True, schedule=CosineDecay(steps=10, lowest=0.01)),
        cloister.AdamW(lr=0.2, betas=(0.5, 0.75), eps=1e-4, weight_decay=0.0),
    ],
)
def test_one_that_travels_is_the_same_afterwards(declared: Optimizer) -> None:
    data = msgspec.msgpack.encode(declared.to_wire())
    again = read(msgspec.msgpack.decode(data, type=wire.Optimizer))
    assert again == declared
    assert type(again) is type(declared)


@pytest.mark.parametrize(
    "optimizer",
    [
        cloister.SGD(lr=0.1),
        cloister.SGD(lr=0.1, momentum=0.5),
        cloister.Adam(),
        cloister.Adam(amsgrad=True),
        cloister.AdamW(),
    ],
)
def test_it_keeps_as_many_tensors_as_it_says(optimizer: Optimizer) -> None:
    weight = nn.Parameter(torch.zeros(7))
    update = optimizer.over({"w": weight})
    update.step({"w": torch.ones(7)})
    kept = [each for each in update.optimizer.state[weight].values() if torch.is_tensor(each) and each.numel() == 7]
    assert len(kept) == optimizer.tensors_kept
