"""Which backward operations need no look at their indices, and which do although they look alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

import cloister
from cloister.tensor.ops import by_name
from cloister.tensor.plan import encoding
from cloister.tensor.plan.checking import shapes_of
from cloister.tensor.plan.operands import operation
from cloister.tensor.plan.program import Program
from tests.tensor.plan.steps import loss


class Model(nn.Module):
    """An embedding, a max pool, a classifier: the three that follow indices backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.max_pool2d(self.embedding(x).unsqueeze(1), 2)
        return self.head(pooled.flatten(1))


PLAN = loss.capture(Model(), example=(torch.zeros(4, 6, dtype=torch.long), torch.zeros(4, dtype=torch.long)))
BACKWARD = ("aten::nll_loss_backward", "aten::max_pool2d_with_indices_backward", "aten::embedding_dense_backward")


def found(program: Program) -> tuple[set[str], set[str]]:
    """The operations that are proven, and those that are watched."""
    plan = cloister.Plan.decode(encoding.encode(program))
    shapes = shapes_of(plan.program, plan._checked, 6)

    def named(lines: frozenset[int]) -> set[str]:
        return {plan.program.lines[at].op for at in lines}

    return named(shapes.attested), named(shapes.watched)


def changed(op: str, **arguments: Any) -> Program:
    """The program with other arguments in the line of ``op``."""
    lines = list(PLAN.program.lines)
    (at,) = [at for at, line in enumerate(lines) if line.op == op]
    order = [param.name for param in operation(lines[at]).params]
    args = [arguments.get(name, value) for name, value in zip(order, lines[at].args, strict=False)]
    lines[at] = replace(lines[at], args=tuple(args))
    return replace(PLAN.program, lines=tuple(lines))


def test_what_autograd_wrote_is_proven() -> None:
    assert found(PLAN.program) == (set(BACKWARD), set())


@pytest.mark.slow
@pytest.mark.parametrize("op", ["aten::nll_loss_backward", "aten::nll_loss_forward"])
def test_a_check_with_another_exception_proves_nothing(op: str) -> None:
    assert found(changed(op, ignore_index=5))[1] == {"aten::nll_loss_backward"}


def test_indices_other_than_the_checked_ones_are_watched() -> None:
    assert found(_with_copy_of_indices())[1] == {"aten::embedding_dense_backward"}


def _with_copy_of_indices() -> Program:
    """The embedding's gradient takes a copy of the indices, made by the line before it."""
    lines = list(PLAN.program.lines)
    (at,) = [at for at, line in enumerate(lines) if line.op == "aten::embedding_dense_backward"]
    made = PLAN.program.inputs + sum(line.makes for line in lines[:at])
    args = list(lines[at].args)
    copy = replace(lines[at], op="aten::clone", args=(args[1],), named={})
    args[1] = made
    lines[at:] = [copy, replace(lines[at], args=tuple(args))]
    gradients = tuple(None if value is None else value + (value >= made) for value in PLAN.program.gradients)
    return replace(PLAN.program, lines=tuple(lines), gradients=gradients)


def test_indices_that_are_written_to_are_watched() -> None:
    lines = list(PLAN.program.lines)
    (at,) = [at for at, line in enumerate(lines) if line.op == "aten::max_pool2d_with_indices"]
    indices = PLAN.program.inputs + sum(line.makes for line in lines[: at + 1]) - 1
    assert by_name("aten::add_.Scalar").inplace
    lines.insert(at + 1, replace(lines[at], op="aten::add_.Scalar", args=(indices, 1 << 30), named={}, makes=0))
    hostile = replace(PLAN.program, lines=tuple(lines))
    assert found(hostile)[1] == {"aten::max_pool2d_with_indices_backward"}
    model, plan = Model(), cloister.Plan.decode(encoding.encode(hostile))
    batch = (torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    with pytest.raises(cloister.errors.PlanError, match="max_pool2d_with_indices_backward: indices must be"):
        plan.step(dict(model.named_parameters()), {}, batch)


def test_a_device_whose_forward_kernels_do_not_check_is_watched() -> None:
    from cloister.tensor.plan import instructions

    shapes = shapes_of(PLAN.program, PLAN._checked, 6)
    here = instructions.prepare(PLAN.program, PLAN._checked, shapes, size=6, device=torch.device("cpu"))
    there = instructions.prepare(PLAN.program, PLAN._checked, shapes, size=6, device=torch.device("meta"))
    assert len(watched(there)) == len(BACKWARD)
    assert not watched(here)


def watched(prepared: Any) -> list[Any]:
    """The calls of a plan's lines before which values are looked at."""
    calls = [getattr(call, "call", call) for call, *_ in prepared.code]
    return [call for call in calls if getattr(call, "__name__", "") == "watched"]
