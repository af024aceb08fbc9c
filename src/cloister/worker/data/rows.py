"""Data sets whose rows can be read in any order: tensors in memory, and arrays that are mapped from files.

An epoch's order takes 8 bytes of memory for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cloister.errors import DataSetError
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.batches import RowNumbers, check_batch_size, order
from cloister.worker.data.schema import Column

TWINS: Final = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Element types that PyTorch hardly computes with, each with one of its size that it selects rows of."""


class Rows(Protocol):
    """One column."""

    def __len__(self) -> int: ...

    @property
    def row(self) -> TensorSpec:
        """What one row is."""
        ...

    def take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """A copy of these rows."""
        ...


class TensorRows:
    """A column in memory: a tensor, on any device, whose first dimension counts the rows."""

    __slots__ = ("_rows", "_twin", "row", "tensor")  # there may be as many of these as a simulation has owners

    def __init__(self, tensor: torch.Tensor) -> None:
        if tensor.ndim == 0 or tensor.dtype not in DTYPE_NAMES:
            raise DataSetError(f"a tensor of {tensor.dtype} and {tensor.ndim} dimensions has no rows to train on")
        self.tensor = tensor.detach() if tensor.requires_grad else tensor
        self._twin = self.tensor.view(TWINS[tensor.dtype]) if tensor.dtype in TWINS else self.tensor
        self._rows, *row = tensor.shape
        self.row = _row(DTYPE_NAMES[tensor.dtype], *row)

    def __len__(self) -> int:
        return self._rows

    def take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """A copy of these rows, on the tensor's device."""
        taken = self._twin.index_select(0, torch.from_numpy(indices).to(self.tensor.device))
        return taken if self._twin is self.tensor else taken.view(self.tensor.dtype)


class MappedRows:
    """A column in a file's bytes, mapped into memory and read when its rows are: ``values`` is two-dimensional, a row
    of raw bytes for each row.

    Nothing is written to the mapping, and nothing that is read shares memory with it. A file that another process cuts
    short while it is mapped ends this process with SIGBUS, as with every mapping.
    """

    def __init__(self, values: NDArray[np.uint8], *, row: TensorSpec) -> None:
        self._values = values
        self.row = row

    def __len__(self) -> int:
        return len(self._values)

    def take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """A copy of these rows."""
        taken = torch.from_numpy(np.take(self._values, indices, axis=0))
        # Any byte is a bool to PyTorch, and only 0 and 1 are defined.
        typed = taken.ne_(0).view(torch.bool) if self.row.dtype == "bool" else taken.view(DTYPES[self.row.dtype])
        return typed.view(len(indices), *self.row.shape)


class Arrays:
    """A data set of columns with equally many rows, which can be read in any order. Implements ``Batches``.

    Raises:
        DataSetError: no columns, no rows, or columns of different lengths.
    """

    __slots__ = ("_rows", "columns", "schema")

    def __init__(self, columns: Mapping[str, torch.Tensor | Rows]) -> None:
        self.columns: dict[str, Rows] = {
            name: TensorRows(column) if isinstance(column, torch.Tensor) else column for name, column in columns.items()
        }
        lengths = {name: len(column) for name, column in self.columns.items()}
        self._rows = next(iter(lengths.values()), 0)
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
            raise DataSetError(f"the columns have different numbers of rows: {listed}")
        if not self._rows:
            raise DataSetError("the data set has no rows")
        self.schema = _schema(*((name, column.row) for name, column in self.columns.items()))

    def __len__(self) -> int:
        return self._rows

    def epoch(
        self, batch_size: int, *, seed: int, step: int, chosen: RowNumbers | None = None
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """See ``Batches.epoch``; the order is ``batches.order``, of the rows or of the places of those chosen."""
        check_batch_size(batch_size)
        if chosen is None:
            return self._deal(batch_size, order(self._rows, seed=seed, step=step))
        return self._deal(batch_size, chosen[order(len(chosen), seed=seed, step=step)])

    def picked(self, rows: RowNumbers, *, batch_size: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """See ``Batches.picked``."""
        check_batch_size(batch_size)
        return self._deal(batch_size, rows)

    def _deal(self, batch_size: int, rows: NDArray[np.int64]) -> Iterator[tuple[torch.Tensor, ...]]:
        columns = list(self.columns.values())
        for start in range(0, len(rows), batch_size):
            indices = rows[start : start + batch_size]
            yield tuple(column.take(indices) for column in columns)


@lru_cache(maxsize=256)
def _row(dtype: str, *shape: int) -> TensorSpec:
    """One value for all the columns that are alike."""
    return TensorSpec(dtype, shape)


@lru_cache(maxsize=256)
def _schema(*columns: tuple[str, TensorSpec]) -> tuple[Column, ...]:
    """One value for all the data sets that are alike."""
    return tuple(Column(name, row) for name, row in columns)
