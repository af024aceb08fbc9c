"""The sum of contributions in whole numbers, and the noise that is added to it once, for all of them.

    mean = (sum of the parts + noise) * scale,    noise ~ N_Z(0, (multiplier * UNITS)^2) in each place

The parts are in units of the grid (``cloister.wire.fixed_point``), and one part's norm is at most ``UNITS``. What
the sum is divided by is a public constant: a quotient of two secrets would need noise of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.discrete_gaussian import discrete_gaussian
from cloister.aggregation.vectors import Travelled, blocks
from cloister.errors import AggregationError
from cloister.wire.fixed_point import UNITS
from cloister.wire.halves import widened

Wholes: TypeAlias = NDArray[np.signedinteger[Any]]
_SLACK: Final = 1 - 2.0**-20
"""Vectors whose norm is the clip within rounding come below it by this."""


class NoisySum:
    """A running sum of whole numbers: one int64 vector of ``length``, however many contributions are added to it."""

    def __init__(self, length: int) -> None:
        self._sum: NDArray[np.int64] = np.zeros(length, np.int64)

    def add(self, part: Wholes) -> None:
        """Adds a contribution. No number of members brings 32-bit sums over 64 bits."""
        for block in blocks(len(part)):
            self._sum[block] += part[block]

    def mean(self, *, multiplier: float, scale: float, random: Callable[[int], bytes]) -> NDArray[np.float64]:
        """The noisy sum, times ``scale``. It takes the sum's place in memory: the sum is empty after it.

        ``random(n)``: gives n bytes that nobody else knows. The noise is drawn here, once, and is nowhere else.
        """
        total, self._sum = self._sum, np.zeros(0, np.int64)
        mean = total.view(np.float64)
        for block in blocks(len(total)):
            part = total[block]
            noisy = part + discrete_gaussian(multiplier * UNITS, size=len(part), random=random)
            mean[block] = noisy * scale
        return mean


def on_grid(update: Travelled, *, clip: float) -> Wholes:
    """An update of norm ``clip`` at most in whole units of the grid, rounded towards 0, which lengthens nothing.

    Raises:
        AggregationError: it is longer all the same, by an exact count.
    """
    found, squares = np.empty(len(update), np.int32), 0
    for block in blocks(len(update)):
        values = widened(update[block]).astype(np.float64)
        values *= UNITS / clip * _SLACK
        if not np.abs(values, out=np.empty_like(values)).max(initial=0.0) <= UNITS:
            raise AggregationError("a contribution is longer than the charter's clip")
        part = found[block] = values.astype(np.int64)
        squares += int(np.einsum("i,i", part, part))
    if squares > UNITS * UNITS:
        raise AggregationError("a contribution is longer than the charter's clip")
    return found
