"""What an operation returned, held against what was said of it before it ran."""

from __future__ import annotations

import pytest
import torch

from cloister.errors import OpRefusedError
from cloister.tensor import ops, results
from cloister.tensor.geometry import Geometry

OP = ops.of_overload(torch.ops.aten.nonzero.default)


def test_results_are_no_larger_than_was_foretold() -> None:
    found = [torch.zeros(4), None, torch.zeros(2, dtype=torch.int64)]
    assert results.bounded(OP, found, 32)[1] is None
    with pytest.raises(OpRefusedError, match="than was predicted"):
        results.bounded(OP, found, 31)


def test_a_part_of_something_larger_comes_alone() -> None:
    (alone,) = results.bounded(OP, [torch.zeros(1000)[:4]], 16)
    assert alone is not None
    assert alone.untyped_storage().nbytes() == 16


@pytest.mark.parametrize("other", [torch.zeros(5), torch.zeros(4, dtype=torch.float64), torch.zeros(1, 4)])
def test_a_result_of_another_shape_or_type_is_dropped(other: torch.Tensor) -> None:
    geometry = Geometry.of(torch.zeros(4))
    assert results.settled(OP, torch.ones(4), geometry).tolist() == [1.0] * 4
    with pytest.raises(OpRefusedError, match="than was predicted"):
        results.settled(OP, other, geometry)


def test_a_result_in_memory_of_another_size_is_laid_out_as_predicted() -> None:
    made = results.settled(OP, torch.arange(8.0)[2:6], Geometry.of(torch.zeros(4)))
    assert made.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert made.untyped_storage().nbytes() == 16
