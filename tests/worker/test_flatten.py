"""Updates as flat vectors: exact both ways, the same in NumPy, and never over the norm they are clipped to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cloister.errors import ConfigurationError, TrainingError
from cloister.worker.flatten import SMALLEST_NORM, clip, delta, flatten, floats_of, layout_of, norm, unflatten

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
models = st.dictionaries(st.text(max_size=4), st.tuples(shapes, st.sampled_from(FLOATS)), max_size=5)


def fill(model: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, (shape, dtype) in model.items()}


@given(models)
def test_there_and_back_exactly(model: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    tensors = fill(model)
    layout = layout_of(tensors)
    vector = flatten(tensors, layout=layout)
    back = {name: torch.full_like(tensor, 7) for name, tensor in tensors.items()}
    unflatten(vector, layout=layout, into=back)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@given(models)
def test_names_decide_the_order(model: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    tensors = fill(model)
    layout = layout_of(tensors)
    vector = flatten(tensors, layout=layout).numpy()
    arrays = {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}
    by_hand = [x for name in sorted(arrays) for x in arrays[name].ravel().tolist()]
    assert vector.tolist() == by_hand


def test_a_transposed_tensor_is_laid_out_by_rows() -> None:
    tensors = {"w": torch.arange(6.0).view(2, 3).t()}
    assert flatten(tensors, layout=layout_of(tensors)).tolist() == [0, 3, 1, 4, 2, 5]
    unflatten(torch.arange(6.0), layout=layout_of(tensors), into=tensors)
    assert tensors["w"].tolist() == [[0, 1], [2, 3], [4, 5]]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Linear(2, 2, bias=False)
        self.a = nn.Linear(2, 2)
        self.a.weight = self.z.weight
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.ones(2), persistent=False)


def test_what_of_a_module_is_averaged() -> None:
    names = set(floats_of(Tied()))
    assert names == {"z.weight", "a.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}


def test_delta_is_what_training_changed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    layout = layout_of(floats_of(model))
    start = flatten(floats_of(model), layout=layout)
    before = start.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    change = delta(floats_of(model), start=start, layout=layout)
    assert torch.equal(start, before)
    assert change.abs().max() > 0
    assert torch.allclose(start + change, flatten(floats_of(model), layout=layout), atol=1e-7)
    assert not change.requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_name(value: float) -> None:
    tensors = {"good": torch.zeros(3), "bad": torch.tensor([0.0, value])}
    layout = layout_of(tensors)
    with pytest.raises(TrainingError, match="'bad'"):
        delta(tensors, start=torch.zeros(5), layout=layout)
    for refuse in (norm, lambda vector: clip(vector, limit=1.0)):
        with pytest.raises(TrainingError, match="not finite"):
            refuse(tensors["bad"])


def test_tensors_that_are_not_those_of_the_layout() -> None:
    layout = layout_of({"a": torch.zeros(2), "b": torch.zeros(1)})
    vector = torch.zeros(3)
    wrong: list[tuple[dict[str, torch.Tensor], str]] = [
        ({"a": torch.zeros(2)}, "differ in b"),
        ({"a": torch.zeros(2), "b": torch.zeros(2)}, r"'b' is float32\[2\]"),
        ({"a": torch.zeros(2), "b": torch.zeros(1, dtype=torch.float64)}, r"'b' is float64\[1\]"),
    ]
    for tensors, text in wrong:
        with pytest.raises(ConfigurationError, match=text):
            flatten(tensors, layout=layout)
        with pytest.raises(ConfigurationError, match=text):
            unflatten(vector, layout=layout, into=tensors)
    right = {"a": torch.ones(2), "b": torch.ones(1)}
    for bad in (torch.zeros(4), torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1)):
        with pytest.raises(ConfigurationError, match="3 values of float32"):
            unflatten(bad, layout=layout, into=right)
        with pytest.raises(ConfigurationError, match="3 values of float32"):
            delta(right, start=bad, layout=layout)
    assert right["a"].tolist() == [1, 1]


def numpy_norm(values: np.ndarray[Any, Any]) -> float:
    """Another order of summation than PyTorch's, and no overflow."""
    return math.hypot(*values.astype(np.float64).tolist())


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    st.floats(SMALLEST_NORM, 1e30),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_no_clipped_vector_is_over_the_limit(values: list[float], limit: float, dtype: torch.dtype) -> None:
    vector = torch.tensor(values, dtype=dtype)
    clipped = clip(vector, limit=limit)
    assert clipped.dtype == dtype
    assert numpy_norm(clipped.numpy()) <= limit
    if numpy_norm(vector.numpy()) < limit * 0.999:
        assert clipped is vector
    else:
        assert numpy_norm(clipped.numpy()) == pytest.approx(min(limit, numpy_norm(vector.numpy())), rel=1e-5)


def test_norms_are_added_up_in_float64() -> None:
    vector = torch.full((3_000_000,), 0.1)
    assert norm(vector) == pytest.approx(math.sqrt(3_000_000) * float(np.float32(0.1)), rel=1e-10)
    assert norm(torch.tensor([3e300, 4e300], dtype=torch.float64)) == pytest.approx(5e300)
    assert norm(torch.tensor([3e38, 4e37])) > 3e38
    assert norm(torch.zeros(0)) == 0
    with pytest.raises(TrainingError):
        norm(torch.full((9,), 1e308, dtype=torch.float64))


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf, 1e-31])
def test_limits_that_are_none(limit: float) -> None:
    with pytest.raises(ConfigurationError, match="norm to clip to"):
        clip(torch.ones(2), limit=limit)
