"""The grid on which contributions are whole numbers where noise is added to their sum.

Sums of whole numbers are exact and do not depend on their order; discrete noise on them leaves nothing of the values in
low bits, where floating-point noise does (Mironov: "On Significance of the Least Significant Bits For Differential
Privacy", CCS 2012). The grid is tied to the noise: its deviation is the charter's multiplier times ``UNITS``.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

UNITS: Final = 1 << 16
"""The most that the norm of one part can be, the charter's clip, in units of the grid. Rounding to it is below noise by
far, and 32 bits hold the sum of 32,768 parts that all point in one direction."""
SUM_TYPE: Final[np.dtype[Any]] = np.dtype(np.int32)
"""The element type of one owner's sum over its records."""


def most_drawn(expected: float) -> int:
    """How many records are drawn at most, where so many are expected: more come up with a probability below 1e-13
    (Chernoff's bound for a sum of independent draws)."""
    return math.ceil(expected + 8 * math.sqrt(expected) + 8)
