"""Columns in memory and in mapped bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cloister.errors import DataSetError
from cloister.tensor.geometry import DTYPES
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.rows import Arrays, MappedRows, TensorRows

PICK = np.array([2, 0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [(), (3,), (2, 2)])
def test_mapped_bytes_are_the_tensor_they_were(dtype: str, row: tuple[int, ...]) -> None:
    tensor = torch.arange(4 * int(np.prod(row))).view(4, *row).to(DTYPES[dtype])
    values = tensor.view(4, -1).view(torch.uint8).numpy()
    rows = MappedRows(values, row=TensorSpec(dtype, row))
    assert len(rows) == 4
    taken = rows.take(PICK)
    assert taken.dtype == tensor.dtype
    assert (
        taken.view(torch.uint8).tolist()
        == np.take(values, PICK, axis=0).reshape(taken.view(torch.uint8).shape).tolist()
    )
    assert torch.equal(TensorRows(tensor).take(PICK).view(torch.uint8), taken.view(torch.uint8))


def test_any_byte_but_zero_is_true() -> None:
    rows = MappedRows(np.array([[0], [1], [255]], np.uint8), row=TensorSpec("bool", ()))
    assert rows.take(np.arange(3)).view(torch.uint8).tolist() == [0, 1, 1]


def test_tensors_of_any_strides_and_with_gradients() -> None:
    tensor = torch.arange(6.0).view(2, 3).t().requires_grad_()
    taken = TensorRows(tensor).take(PICK)
    assert taken.tolist() == [[2, 5], [0, 3], [2, 5]]
    assert not taken.requires_grad


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({}, "no rows"),
        ({"x": torch.zeros(0, 3)}, "no rows"),
        ({"x": torch.zeros(3), "y": torch.zeros(4)}, "'x' has 3, 'y' has 4"),
        ({"x": torch.tensor(1.0)}, "0 dimensions"),
        ({"x": torch.zeros(3, dtype=torch.float8_e5m2)}, "float8_e5m2"),
    ],
)
def test_columns_that_are_no_data_set(columns: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(DataSetError, match=text):
        Arrays(columns)  # type: ignore[arg-type]
