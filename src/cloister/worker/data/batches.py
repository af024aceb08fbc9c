"""Rows in batches: what training asks of a data set, whatever keeps it.

The order of the rows is a function of ``seed`` and ``step`` alone: ``step`` is how many steps of the run came before
this epoch, so that each epoch of a run has an order of its own, and a run that is gone on with has the orders that it
would have had. Data sets whose rows can be read in any order all have the same rule, ``orders``, which is arithmetic
on whole numbers and so the same on every machine; others draw from ``generator``, which is the same with the same
version of NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from cloister.errors import ConfigurationError
from cloister.worker.data.schema import Column

_SEEDS: Final = 1 << 64
_GAMMA, _FIRST, _SECOND = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_30, _27, _31 = map(np.uint64, (30, 27, 31))
_BLOCK: Final = 1 << 18
"""Keys that are worked out at a time."""


RowNumbers: TypeAlias = NDArray[np.int64]


class Batches(Protocol):
    """A data set as local training reads it."""

    @property
    def schema(self) -> tuple[Column, ...]:
        """The columns, in the order in which an epoch gives them."""
        ...

    def __len__(self) -> int:
        """The number of rows, at least 1."""
        ...

    def epoch(
        self, batch_size: int, *, seed: int, step: int, chosen: RowNumbers | None = None
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Every row once, or each of those that are ``chosen`` (ascending), in an order that is drawn from ``seed`` (0
        to 2^64 - 1) and ``step``: a tuple of tensors for each batch, one for each column, of shape ``(rows, *row)``.
        The last batch is smaller if need be.

        The tensors are the caller's own; what it writes into them changes nothing else.

        Raises:
            ConfigurationError: a batch size below 1, or a seed or step out of range; at the call.
            DataSetError: the file turns out to be damaged on the way.
        """
        ...

    def picked(self, rows: RowNumbers, *, batch_size: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """The rows of these numbers (ascending, each once), in their order, in batches as those of an epoch.

        Raises:
            ConfigurationError: a batch size below 1; at the call.
            DataSetError: as ``epoch``.
        """
        ...


def batches_in(rows: int, *, batch_size: int) -> int:
    """How many batches an epoch of so many rows has."""
    return -(-rows // batch_size)


def whole_batches(rows: int, *, batch_size: int, seed: int) -> RowNumbers:
    """The rows, ascending, of as many whole batches as so many rows have: chosen by ``seed``, and the same in every
    epoch, so that no step takes fewer rows than another.

    Raises:
        ConfigurationError: a batch size below 1, or a seed that is negative, or over 2^64 - 1.
    """
    check_batch_size(batch_size)
    chosen: RowNumbers = order(rows, seed=seed, step=0)[: rows - rows % batch_size]
    return np.sort(chosen)


def generator(*, seed: int, step: int) -> np.random.Generator:
    """Where an epoch's order is drawn from.

    Raises:
        ConfigurationError: a seed or step that is negative, or over 2^64 - 1.
    """
    if not (0 <= seed < _SEEDS and 0 <= step < _SEEDS):
        raise ConfigurationError(f"seed {seed} and step {step} are not both from 0 to 2^64 - 1")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, step))))


def order(rows: int, *, seed: int, step: int) -> RowNumbers:
    """All row numbers below ``rows``, in the order of an epoch of a data set whose rows can be read in any order.

    Raises:
        ConfigurationError: a seed or step that is negative, or over 2^64 - 1.
    """
    found: RowNumbers = orders(rows, seeds=[seed], step=step)[0]
    return found


def orders(rows: int, *, seeds: Sequence[int], step: int) -> RowNumbers:
    """``order`` for many seeds at once, of shape ``(len(seeds), rows)``; 8 bytes of memory for each number.

    Rows are sorted by random keys: row r has number r of the SplitMix64 generator (Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", OOPSLA 2014) whose state, with m the function that makes its numbers, is
    m(seed + m(step)). The lowest bits of a key, as many as the last row's number has, are the row's number, so that no
    two keys are equal and every way of sorting gives the same order.

    Raises:
        ConfigurationError: a seed or step that is negative, or over 2^64 - 1.
    """
    if not (0 <= step < _SEEDS and all(0 <= seed < _SEEDS for seed in seeds)):
        raise ConfigurationError("the seed and the step of an order are both from 0 to 2^64 - 1")
    state = _mix(np.array(seeds, np.uint64) + _mix(np.array([step], np.uint64)))[:, None]
    keys = np.empty((len(seeds), rows), np.uint64)
    below = np.uint64((1 << (rows - 1).bit_length()) - 1)
    columns = max(1, _BLOCK // max(1, len(seeds)))
    for start in range(0, rows, columns):
        numbers = np.arange(start, min(start + columns, rows), dtype=np.uint64)
        drawn = _mix(state + (numbers + np.uint64(1)) * _GAMMA)
        drawn &= ~below
        np.bitwise_or(drawn, numbers, out=keys[:, start : start + columns])
    keys.sort(axis=1)
    keys &= below
    return keys.view(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What SplitMix64 makes of its states, in place."""
    values ^= values >> _30
    values *= _FIRST
    values ^= values >> _27
    values *= _SECOND
    values ^= values >> _31
    return values


def check_batch_size(batch_size: int) -> None:
    """Refuses a batch size that is none.

    Raises:
        ConfigurationError: below 1.
    """
    if batch_size < 1:
        raise ConfigurationError(f"the batch size is {batch_size}; it is at least 1")
