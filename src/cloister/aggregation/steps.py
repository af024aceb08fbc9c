"""A round's step: the mean of its contributions as it travels, from which everybody makes the same next model.

Whoever holds the model that a round began with, and what its strategy remembers, needs no more than the mean: all
strategies are sums, products, quotients and square roots of float64, element by element, which IEEE 754 rounds alike on
every machine. So the mean is rounded to the element type in which it travels, *before* the strategy is applied to it.
The model itself is never rounded to that type: steps that are smaller than half a unit of it would be lost.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.vectors import blocks
from cloister.errors import AggregationError
from cloister.wire.halves import HELD_AS, fits, packed, rounded, widened
from cloister.wire.layout import Half

_ROUNDING = b"cloister rounding of a mean 1\0"


def step_type(dtype: str, *, half: Half | None, averages: int) -> np.dtype[Any] | None:
    """The element type of the steps of models of ``dtype``; None where a step would be as long as what comes of it.

    ``averages``: the vectors that the strategy keeps between rounds.
    """
    if half is not None:
        return HELD_AS[half]
    return np.dtype(dtype) if averages else None


def step_of(
    mean: NDArray[np.float64], *, dtype: np.dtype[Any], half: Half | None, job: bytes, number: int
) -> NDArray[Any]:
    """Rounds a mean, in place, to what travels of it, and returns that: of two bytes a value without bias
    (``cloister.wire.halves``), in full to the nearest.

    Chance is a function of the job's digest and of the number of the release that it is for (from 1), so that a round
    that is begun again comes to the same. It is no secret, and hides nothing: what is rounded is released.

    Raises:
        AggregationError: a value is beyond the type's largest.
    """
    if half is None:
        with np.errstate(over="ignore"):
            step = mean.astype(dtype)
        if not np.isfinite(step).all():
            raise AggregationError(f"the mean of the contributions has a value beyond the largest of {dtype}")
    else:
        if not fits(mean, to=half):
            raise AggregationError(f"the mean of the contributions has a value beyond the largest of {half}")
        step = packed(rounded(mean, to=half, seed=rounding_seed(job, number=number)), to=half)
    for block in blocks(len(mean)):
        mean[block] = widened(step[block])
    return step


def rounding_seed(job: bytes, *, number: int) -> int:
    """The seed of what is random in the rounding of a job's ``number``th mean: the first 8 bytes, big-endian, of
    SHA-256 of a label, the job's digest and the number (8 bytes, big-endian)."""
    return int.from_bytes(hashlib.sha256(_ROUNDING + job + number.to_bytes(8, "big")).digest()[:8], "big")
