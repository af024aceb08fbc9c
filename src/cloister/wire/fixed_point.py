"""Sums of clipped gradients as whole numbers: what an owner's node sends in a round that protects single records.

    A value of a sum is a whole number of units. A unit is the clip divided by ``UNITS``, so that what one record adds
    to a sum has an L2 norm of at most ``UNITS``, in whole numbers and so exactly: floating-point sums depend on the
    order in which they are taken, and move by more than a record when a record is left out (Casacuberta, Shoemate,
    Vadhan and Wagaman, "Widespread Underestimation of Sensitivity in Differentially Private Libraries and How to Fix
    It", CCS 2022).

``cloister.worker.record_sums`` makes such sums.
"""

from __future__ import annotations

import math
from typing import Final

UNITS: Final = 1 << 16
"""A record's sensitivity: the units of the grid in one clip. So a sum of 2^15 records is sure to fit."""

SUM_TYPE: Final = "int32"
"""The element type of a sum, little-endian as all tensors are. What does not fit is the nearest value that does."""
SUM_BYTES: Final = 4
"""The bytes of one value of a sum."""


def most_drawn(expected: float) -> int:
    """How many records are drawn at most, where so many are expected: more come up with a probability below 1e-14,
    in a sum of independent draws and, which is more, in a Poisson distribution."""
    return math.ceil(expected + 8 * math.sqrt(expected) + 8)
