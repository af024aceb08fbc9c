"""What a plan learns, read from its bytes by those who hold a job against a charter: whatever the bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cloister
from cloister.errors import JobError
from cloister.ledger.learned import learned
from cloister.tensor.plan import learned as in_program
from cloister.wire.limits import INPUTS, LIST_ITEMS
from cloister.wire.tensors import TensorSpec

REFUSED = "its plan does not tell which tensors of a model it learns"
WEIGHT = [["w", "tied"], "float32", [3, 5], True]
MEAN = [["m"], "float16", []]


def plan(**changed: Any) -> bytes:
    """A plan of one parameter, which it trains, and one buffer, which it writes."""
    fields = {
        "format": "cloister plan 2",
        "parameters": [WEIGHT],
        "buffers": [MEAN],
        "batch": [],
        "constants": [],
        "lines": [],
        "loss": 0,
        "metrics": [],
        "gradients": [1],
        "updates": [2],
    }
    return msgspec.msgpack.encode([*(fields | changed).values()])


def test_what_is_trained_and_what_is_written() -> None:
    assert learned(plan()) == ({"w": TensorSpec("float32", (3, 5))}, {"m": TensorSpec("float16", ())})
    assert learned(plan(gradients=[None])) == ({}, {"m": TensorSpec("float16", ())})
    assert learned(plan(updates=[None])) == ({"w": TensorSpec("float32", (3, 5))}, {})


def test_whole_numbers_are_not_learned() -> None:
    counter = [["n"], "int64", []]
    assert learned(plan(buffers=[counter]))[1] == {}
    assert learned(plan(parameters=[[["n"], "int64", [], True]]))[0] == {}


def test_it_is_what_those_who_run_the_plan_find() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)

    @cloister.plan
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).square().mean()

    found = loss.capture(model, example=(torch.zeros(2, 3),))
    parameters, buffers = learned(found.encode())
    assert (tuple(parameters), tuple(buffers)) == in_program.learned(found.program)
    assert sorted(parameters) == ["0.bias", "1.bias", "1.weight", "2.bias", "2.weight"]
    assert sorted(buffers) == ["1.running_mean", "1.running_var"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"the plan",
        msgspec.msgpack.encode({"format": "cloister plan 2"}),
        msgspec.msgpack.encode(["cloister plan 2", [WEIGHT], [MEAN]]),  # which ends where its tensors do
        plan(gradients=[]),
        plan(gradients=[1, 1]),
        plan(updates=[]),
        plan(updates=[None, None]),
        plan(gradients=["1"]),
        plan(gradients=None),
        plan(parameters=[[[], "float32", [3], True]]),
        plan(parameters=[[["w"] * (LIST_ITEMS + 1), "float32", [3], True]]),
        plan(parameters=[[["w"], "float32" * 3, [3], True]]),
        plan(parameters=[[["w"], "float32", [-1], True]]),
        plan(parameters=[[["w"], "float32", [1 << 62], True]]),
        plan(parameters=[[["w"], "float32", [1 << 48, 2], True]]),
        plan(parameters=[[["w"], "float32", [1 << 48] * 16, True]]),
        plan(parameters=[[["w"], "float32", [1] * 1000, True]]),
        plan(parameters=[WEIGHT] * (INPUTS + 1), gradients=[1] * (INPUTS + 1)),
        plan(parameters=[[[f"w{at}"], "float32", [1 << 47], True] for at in range(3)], gradients=[1] * 3),
        plan()[:-1],
        plan() + b"\0",
        b"\x9a\xa1x" + b"\x91" * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_bytes_that_are_no_plan(data: bytes) -> None:
    with pytest.raises(JobError, match=REFUSED):
        learned(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_plan_or_refused(data: bytes) -> None:
    with contextlib.suppress(JobError):
        learned(data)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 255)), min_size=1, max_size=4))
def test_any_damage_is_another_plan_or_refused(damage: list[tuple[int, int]]) -> None:
    data = bytearray(plan())
    for place, value in damage:
        data[place % len(data)] ^= value
    with contextlib.suppress(JobError):
        learned(bytes(data))
