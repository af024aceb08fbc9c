"""Models and updates as flat NumPy vectors (``cloister.wire.layout``), block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.errors import AggregationError
from cloister.wire.halves import HELD_AS, widened

Vector: TypeAlias = NDArray[np.floating[Any]]
"""One dimension, float32 or float64."""
Travelled: TypeAlias = NDArray[Any]
"""The same, or in two bytes a value as it has travelled (``cloister.wire.halves``)."""

BLOCK: Final = 1 << 15
"""The number of elements that are worked on at a time: intermediate values stay in a core's cache for any model.
"""


def blocks(length: int) -> Iterator[slice]:
    """The parts of a vector, ``BLOCK`` elements each."""
    return (slice(start, start + BLOCK) for start in range(0, length, BLOCK))


def check(vector: Travelled, *, length: int, what: str, finite: bool = False, halves: bool = False) -> None:
    """Checks that this is a vector of ``length`` finite numbers; ``what`` names it in the message. ``finite``: whether
    the values are known to be. ``halves``: whether it may be of two bytes a value.

    Raises:
        AggregationError: another length, shape or element type, or a value that is NaN or infinite.
    """
    kinds = (np.float32, np.float64, *(HELD_AS.values() if halves else ()))
    if vector.ndim != 1 or vector.dtype not in kinds:
        raise AggregationError(f"{what} is not a flat vector of float32 or float64")
    if len(vector) != length:
        raise AggregationError(f"{what} has {len(vector)} values where the model has {length}")
    for block in () if finite else blocks(length):
        if not np.isfinite(widened(vector[block])).all():
            raise AggregationError(f"{what} holds a value that is not finite")
