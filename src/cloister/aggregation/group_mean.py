"""The weighted mean for a simulation, in which owners train together and their updates come as one array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.mean import Sum
from cloister.aggregation.vectors import check
from cloister.errors import AggregationError

_TOGETHER: Final = 1 << 18
"""The number of elements of many updates that are added up at a time."""


class GroupSum(Sum):
    """A running weighted sum to which many updates can be added at once."""

    def add_all(self, updates: NDArray[np.floating[Any]], *, weights: Sequence[float], what: str) -> None:
        """Adds many updates, the rows of ``updates``. They are added up among themselves first, so that the result is
        that of adding one after the other within rounding, and not to the last bit.

        Raises:
            AggregationError: as ``add``; nothing is added then.
        """
        if updates.ndim != 2 or len(updates) != len(weights) or updates.shape[1] != len(self._sum):
            raise AggregationError(f"{what} have the shape {updates.shape}, for {len(weights)} weights")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise AggregationError(f"{what} have a weight that is no positive number")
        column = np.array(weights)[:, None]
        added = np.empty_like(self._sum)
        width = max(1, _TOGETHER // max(1, len(updates)))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(added), width):
                part = slice(start, start + width)
                added[part] = (updates[:, part] * column).sum(axis=0)
        check(added, length=len(added), what=what)
        self._sum += added
        self._weights += weights
