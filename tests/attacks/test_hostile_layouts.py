"""Attack: give an operation a tensor whose elements do not follow one another, where its kernel takes it that they do.

The guards look at elements, by the strides. Such a kernel goes through memory, and meets what lies between them:
indices that nobody looked at, or, where one element is expanded to many, whatever comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cloister.errors import HostileIndexError
from cloister.tensor import ops, optable
from cloister.worker import guards

aten: Any = torch.ops.aten


def spread(tensor: Tensor) -> Tensor:
    """The same elements, with a zero behind each."""
    memory = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
    memory[..., 0] = tensor
    return memory[..., 0]


def bag() -> dict[str, Any]:
    return {
        "weight": torch.arange(24.0).reshape(6, 4), "indices": torch.tensor([1, 2, 3, 4]),
        "offsets": torch.tensor([0, 2]),
    }  # fmt: skip


def pool(spatial: int, *, fractional: bool) -> dict[str, Any]:
    image = torch.arange(6.0**spatial).reshape(1, 1, *[6] * spatial)
    if fractional:
        window: dict[str, Any] = {"kernel_size": [2] * spatial, "output_size": [3] * spatial}
        samples = torch.full((1, 1, spatial), 0.5)
        operation = getattr(aten, f"fractional_max_pool{spatial}d")
        made, indices = operation(image, *window.values(), samples)
    else:
        window = {}
        made, indices = aten.adaptive_max_pool3d(image, [3, 3, 3])
    return {"grad_output": torch.ones_like(made), "self": image, **window, "indices": indices}


def groups() -> dict[str, Any]:
    image = torch.arange(24.0).reshape(2, 4, 3).sin()
    sizes = {"N": 2, "C": 4, "HxW": 3, "group": 2}
    _, mean, rstd = aten.native_group_norm(image, None, None, *sizes.values(), 1e-5)
    return {
        "grad_out": image.cos(), "input": image, "mean": mean, "rstd": rstd, "weight": torch.ones(4), **sizes,
        "output_mask": [True, True, True],
    }  # fmt: skip


def group_norm() -> dict[str, Any]:
    image = torch.arange(24.0).reshape(2, 4, 3)
    return {
        "input": image, "weight": torch.ones(4), "bias": torch.ones(4), "N": 2, "C": 4, "HxW": 3, "group": 2,
        "eps": 1e-5,
    }  # fmt: skip


def rrelu() -> dict[str, Any]:
    return {"self": torch.full((4,), -1.0), "noise": torch.zeros(4), "training": True}


CASES: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
    ("_embedding_bag", "indices"): bag,
    ("_embedding_bag", "offsets"): bag,
    ("adaptive_max_pool3d_backward", "indices"): lambda: pool(3, fractional=False),
    ("fractional_max_pool2d_backward", "indices"): lambda: pool(2, fractional=True),
    ("fractional_max_pool3d_backward", "indices"): lambda: pool(3, fractional=True),
    **{("native_group_norm", argument): group_norm for argument in ("weight", "bias")},
    **{
        ("native_group_norm_backward", argument): groups for argument in ("grad_out", "input", "mean", "rstd", "weight")
    },
    ("rrelu_with_noise", "noise"): rrelu,
    ("rrelu_with_noise_", "noise"): rrelu,
}


def run(name: str, arguments: dict[str, Any]) -> list[Tensor]:
    """All that it makes or writes."""
    torch.manual_seed(7)
    made = ops.by_name(f"aten::{name}").overload(**arguments)
    written = [arguments["noise"]] if "noise" in arguments else []
    return [each.clone() for each in [*(made if isinstance(made, tuple) else [made]), *written]]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_without_a_guard_it_takes_what_lies_between(name: str, argument: str) -> None:
    arguments = CASES[name, argument]()
    right = run(name, arguments | {argument: arguments[argument].clone()})
    wrong = run(name, CASES[name, argument]() | {argument: spread(arguments[argument])})
    assert not all(map(torch.equal, right, wrong))


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_the_guard_refuses_it(name: str, argument: str) -> None:
    assert optable.load()[f"aten::{name}"].guard
    arguments = CASES[name, argument]()
    guards.check(f"aten::{name}", arguments)
    one = arguments[argument].flatten()[:1].zero_()
    for hostile in (spread(arguments[argument]), one.expand(arguments[argument].shape)):
        with pytest.raises(HostileIndexError, match=rf"{name}: .*contiguous"):
            guards.check(f"aten::{name}", arguments | {argument: hostile})


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_group_norm_may_have_either_memory_format(order: torch.memory_format) -> None:
    image = torch.rand(2, 4, 3, 5).contiguous(memory_format=order)
    arguments = groups() | {"input": image, "grad_out": image, "HxW": 15}
    guards.check("aten::native_group_norm_backward", arguments)
    other = image.contiguous(memory_format=torch.contiguous_format).transpose(2, 3).contiguous().transpose(2, 3)
    with pytest.raises(HostileIndexError, match="same memory format"):
        guards.check("aten::native_group_norm_backward", arguments | {"grad_out": other})
