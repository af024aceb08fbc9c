"""A data set in the element types of a plan, converted batch by batch: ``schema`` says what is converted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from cloister.errors import DataSetError
from cloister.tensor.geometry import DTYPES
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.batches import Batches, RowNumbers
from cloister.worker.data.schema import Column, check_schema


class Converted:
    """A data set whose columns are given as those of ``wanted``. Implements ``Batches``."""

    def __init__(self, data: Batches, wanted: Sequence[Column]) -> None:
        self._data = data
        self.schema = tuple(
            Column(found.name, TensorSpec(each.row.dtype, found.row.shape))
            for found, each in zip(data.schema, wanted, strict=True)
        )

    def __len__(self) -> int:
        return len(self._data)

    def epoch(
        self, batch_size: int, *, seed: int, step: int, chosen: RowNumbers | None = None
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """See ``Batches.epoch``.

        Raises:
            DataSetError: also a number that is too large for its column; while it is iterated.
        """
        batches = self._data.epoch(batch_size, seed=seed, step=step, chosen=chosen)
        return (tuple(map(_converted, batch, self.schema)) for batch in batches)

    def picked(self, rows: RowNumbers, *, batch_size: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """See ``Batches.picked``. A number that is too large for its column becomes infinite there: who picks rows
        keeps a secret of which they are, and an error would tell of one of them."""
        batches = self._data.picked(rows, batch_size=batch_size)
        return (tuple(map(_cast, batch, self.schema)) for batch in batches)


def fitted(data: Batches, *, expected: Sequence[Column]) -> Batches:
    """The data set as a training takes it: itself, where its columns are of the element types that are ``expected``.

    Raises:
        DataSetError: as ``check_schema``.
    """
    check_schema(data.schema, expected=expected)
    same = all(found.row.dtype == wanted.row.dtype for found, wanted in zip(data.schema, expected, strict=True))
    return data if same else Converted(data, expected)


def _cast(values: torch.Tensor, column: Column) -> torch.Tensor:
    return values.to(DTYPES[column.row.dtype])


def _converted(values: torch.Tensor, column: Column) -> torch.Tensor:
    found = _cast(values, column)
    if values.is_floating_point() and bool((found.isinf() & values.isfinite()).any()):
        raise DataSetError(
            f"column {column.name!r} holds a number that is too large for {column.row.dtype}, which is expected:"
            " scale the column"
        )
    return found
