"""The data sets of many owners, equally long, dealt out together: each batch holds one of every owner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from cloister.worker.data.batches import RowNumbers, orders
from cloister.worker.data.rows import TWINS, Arrays, TensorRows


class Stack:
    """Data sets of the same columns and number of rows, stacked along a first dimension, on ``device``.

    Columns of tensors are copied once, when this is made; others, such as mapped files, are read in each epoch. Either
    way all rows of these data sets are held at once.
    """

    def __init__(self, owners: Sequence[Arrays], *, device: torch.device) -> None:
        self._rows = len(owners[0])
        self._device = device
        columns = zip(*(each.columns.values() for each in owners), strict=True)
        self._columns = [_stacked(column, device) or column for column in columns]

    def epoch(
        self, batch_size: int, *, seeds: Sequence[int], step: int, chosen: RowNumbers | None = None
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Every row of each data set once, or each of those that are ``chosen`` (a line for each), in the order that
        its ``epoch`` has with its seed: tensors of shape ``(owners, rows, *row)``."""
        if chosen is None:
            rows = orders(self._rows, seeds=seeds, step=step)
        else:
            rows = np.take_along_axis(chosen, orders(chosen.shape[1], seeds=seeds, step=step), axis=1)
        places = torch.from_numpy(rows + np.arange(len(rows))[:, None] * self._rows).to(self._device)
        read = {
            at: torch.stack([each.take(order) for each, order in zip(column, rows, strict=True)]).to(self._device)
            for at, column in enumerate(self._columns)
            if not isinstance(column, _Flat)
        }
        for start in range(0, rows.shape[1], batch_size):
            part = slice(start, start + batch_size)
            yield tuple(
                column.take(places[:, part]) if isinstance(column, _Flat) else read[at][:, part]
                for at, column in enumerate(self._columns)
            )


class _Flat:
    """One column of all the data sets, one after the other."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._values = torch.cat(tensors) if len(tensors) > 1 else tensors[0]

    def take(self, places: torch.Tensor) -> torch.Tensor:
        taken = self._values.index_select(0, places.flatten())
        return taken.view(*places.shape, *self._values.shape[1:])


def _stacked(column: Sequence[object], device: torch.device) -> _Flat | None:
    """A column whose owners all have it as tensors; None where some do not, or PyTorch hardly computes with them."""
    tensors = [each.tensor for each in column if type(each) is TensorRows and each.tensor.dtype not in TWINS]
    if len(tensors) < len(column):
        return None
    return _Flat([each if each.device == device else each.to(device) for each in tensors])
