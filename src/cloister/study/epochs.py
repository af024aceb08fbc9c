"""From epochs, in which people think, to steps, which a charter agrees on.

All owners take the same number of steps of equally many rows, whatever they have: those with few rows pass over them
more often. Many passes over few rows fit them closely, and an update then tells more of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

MANY_PASSES: Final = 20
"""More passes of an owner over its rows in a round than these are worth a warning."""


def steps_of(rows: Sequence[int], *, batch_size: int, epochs: float) -> int:
    """The steps that are so many epochs for the owner in the middle, rounded; at least 1. ``rows``: each owner's."""
    return max(1, round(epochs * median(rows) / batch_size))


def passes_of(rows: int, *, batch_size: int, steps: int) -> float:
    """How often an owner passes over its rows in a round of so many steps; it has at least one whole batch of them."""
    return steps / (rows // batch_size)
