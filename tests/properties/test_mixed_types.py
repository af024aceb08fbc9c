"""Tensors of several element types in one call: what is said of the result is what the kernel makes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Final

import pytest
import torch

import cloister
from cloister.tensor import ops, optable
from cloister.tensor.geometry import Geometry
from cloister.tensor.inference import outline_of
from cloister.tensor.ops import Op

TYPES: Final = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
NUMBERS: Final = {"int": 1, "float": 1.0, "number": 1, "bool": False}
SAMPLE: Final = torch.ones(3, 3)


def calls(op: Op) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Calls with small tensors of every combination of types, numbers where the schema asks for some."""
    wanted = [a for a in op.overload._schema.arguments if not a.has_default_value()]
    kinds = [str(argument.real_type) for argument in wanted]
    if kinds.count("Tensor") < 2 or not set(kinds) <= {"Tensor", *NUMBERS}:
        return
    for types in product(TYPES, repeat=kinds.count("Tensor")):
        tensors = (SAMPLE.to(dtype) for dtype in types)
        values = [next(tensors) if kind == "Tensor" else NUMBERS[kind] for kind in kinds]
        args = [value for argument, value in zip(wanted, values, strict=True) if not argument.kwarg_only]
        yield args, {a.name: value for a, value in zip(wanted, values, strict=True) if a.kwarg_only}


def told(op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    geometries = outline_of(op, (object(),), args, kwargs, Geometry.of).geometries
    return [None if each is None else each.dtype for each in geometries]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_said_is_what_is_made() -> None:
    wrong, compared = [], 0
    for name, row in optable.load().items():
        op = ops.by_name(name)
        if row.value or row.random or row.dynamic or op.written:
            continue
        for args, kwargs in calls(op):
            try:
                made = op.overload(*args, **kwargs)
            except Exception:  # noqa: BLE001, S112 - not for these types
                continue
            compared += 1
            tensors = [made] if isinstance(made, torch.Tensor) else list(made)
            said = told(op, args, kwargs)
            if said != [None if each is None else each.dtype for each in tensors]:
                wrong.append((name, [each.dtype for each in args if isinstance(each, torch.Tensor)], said))
    assert not wrong
    assert compared > 1000


LOSSES: Final = {
    "mse": torch.nn.functional.mse_loss,
    "smooth": torch.nn.functional.smooth_l1_loss,
    "margin": torch.nn.functional.soft_margin_loss,
}


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_targets_in_double(name: str, reduction: str) -> None:
    """NumPy's own type, which researchers send as it is."""
    bob = cloister.VirtualWorker(id="bob")
    outputs, targets = torch.randn(4, 3), torch.ones(4, 3, dtype=torch.float64)
    here: Any = outputs.clone().requires_grad_()
    there: Any = outputs.clone().send(bob).requires_grad_()  # type: ignore[attr-defined]
    expected = LOSSES[name](here, targets, reduction=reduction)
    found = LOSSES[name](there, targets.send(bob), reduction=reduction)  # type: ignore[attr-defined]
    expected.sum().backward()
    found.sum().backward()
    assert found.dtype == expected.dtype
    assert torch.equal(found.detach().get(), expected.detach())
    assert torch.equal(there.grad.get(), here.grad)


@pytest.mark.slow
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [lambda: torch.nn.BatchNorm2d(4), lambda: torch.nn.GroupNorm(2, 4), lambda: torch.nn.LayerNorm(5)],
    ids=["batch", "group", "layer"],
)
def test_a_norm_in_float32_of_an_input_in_half_precision(make: Any, half: torch.dtype) -> None:
    bob = cloister.VirtualWorker(id="bob")
    inputs = torch.randn(3, 4, 2, 5).to(half)
    here: Any = inputs.clone().requires_grad_()
    there: Any = inputs.clone().send(bob).requires_grad_()  # type: ignore[attr-defined]
    make()(here).float().square().sum().backward()
    make().send(bob)(there).float().square().sum().backward()
    assert torch.equal(there.grad.get(), here.grad)
