"""Vectors in NumPy: the layout written out by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloister.aggregator.vectors import BLOCK, check, flatten, unflatten
from cloister.errors import AggregationError
from cloister.wire.layout import lay_out
from cloister.wire.tensors import TensorSpec

LAYOUT = lay_out({"w": TensorSpec("float32", (2, 2)), "b": TensorSpec("float16", (3,)), "s": TensorSpec("float32", ())})


def test_names_decide_the_order() -> None:
    tensors = {"w": np.array([[4.0, 5], [6, 7]]), "b": np.array([0.0, 1, 2], np.float16), "s": np.array(3.0)}
    vector = flatten(tensors, layout=LAYOUT)
    assert vector.dtype == np.float32
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    back = unflatten(vector, layout=LAYOUT)
    assert all(np.array_equal(back[name], tensors[name]) for name in tensors)
    vector[7] = 9
    assert back["w"][1, 1] == 9  # a view, no copy


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": np.zeros((2, 2)), "b": np.zeros(3)},
        {"w": np.zeros((2, 2)), "b": np.zeros(3), "s": np.zeros(()), "t": np.zeros(())},
        {"w": np.zeros(4), "b": np.zeros(3), "s": np.zeros(())},
    ],
)
def test_other_tensors_are_refused(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    with pytest.raises(AggregationError):
        flatten(tensors, layout=LAYOUT)


@pytest.mark.parametrize("vector", [np.zeros(7), np.zeros((8, 1))])
def test_other_lengths_are_refused(vector: np.ndarray[Any, Any]) -> None:
    with pytest.raises(AggregationError):
        unflatten(vector, layout=LAYOUT)


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found_anywhere(place: int, value: float) -> None:
    vector = np.zeros(2 * BLOCK + 1, np.float32)
    check(vector, length=len(vector), what="it")
    vector[place] = value
    with pytest.raises(AggregationError, match="it holds a value that is not finite"):
        check(vector, length=len(vector), what="it")
