"""Which records a round takes: each by itself, all with the same probability (Poisson sampling).

This is the sampling that the privacy of noisy sums of clipped gradients is reckoned with (Abadi et al., "Deep Learning
with Differential Privacy", CCS 2016, section 3.1; Mironov, Talwar and Zhang, "Rényi Differential Privacy of the Sampled
Gaussian Mechanism", 2019). It protects more than taking all records only as long as nobody knows which were drawn, so
the key is a secret of the owner's and another one for each data set and round.

Nor may anybody learn how many were drawn. So a round fetches and computes equally many rows each time, and some of them
count for nothing. Of all rows, these are the ones with the smallest random numbers: those that were drawn have smaller
ones than all others, and which rows have the smallest says nothing about how small these are.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloister.errors import ConfigurationError
from cloister.wire.fixed_point import most_drawn

KEY_BYTES: Final = 32
_DRAW: Final = b"cloister draw 1\0"
_BLOCK: Final = 1 << 17
"""Rows whose numbers are of one hash."""


class Draw(NamedTuple):
    """The rows that a round fetches, ascending, and which of them were drawn: the others are computed all the same, and
    count for nothing."""

    rows: NDArray[np.int64]
    drawn: NDArray[np.bool_]


def draw(rows: int, *, rate: float, key: bytes, most: int) -> Draw:
    """Draws from a data set of ``rows`` rows; it takes 16 bytes of memory for each.

    Row r is drawn if its number is below ``rate * 2^64``, rounded down. Its number is the 64 bits, little-endian, at
    place r mod 2^17 of SHAKE-256 (FIPS 202) of a label, the key and r div 2^17 (8 bytes, big-endian). So the
    probability is ``rate``, or less by less than 2^-64; and 1 for a rate of 1.

    The rows that are fetched are ``fetched(rows, rate=rate, most=most)``. If more than these are drawn, those with the
    largest numbers are left out. No record's values decide that, so it makes no record's part in a sum any larger.

    Args:
        key: 32 bytes that nobody but the owner knows, other ones for each data set and round: a pseudorandom function
            of the owner's secret.

    Raises:
        ConfigurationError: no rows, a rate that is not above 0 and at most 1, or a key of another length.
    """
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"the key of a draw has {len(key)} bytes; it has {KEY_BYTES}")
    wanted = fetched(rows, rate=rate, most=most)
    numbers = _numbers(rows, key)
    least = np.sort(np.argpartition(numbers, wanted - 1)[:wanted])
    below = int(math.ldexp(rate, 64))  # exact: a power of two changes no digit of a float
    drawn = numbers[least] <= np.uint64(below - 1) if below else np.zeros(wanted, np.bool_)
    return Draw(least, drawn)


def fetched(rows: int, *, rate: float, most: int) -> int:
    """How many rows a round fetches from a data set of ``rows`` rows, whatever is drawn: as many as are drawn at most
    (``most_drawn`` of ``rows * rate``); at most ``rows``, and at most ``most``.

    Where ``most`` is not the least of the three, more rows are drawn with a probability below 1e-14.

    Raises:
        ConfigurationError: as ``draw``, or ``most`` is below 1.
    """
    if rows < 1 or most < 1:
        raise ConfigurationError(f"a draw is from at least one row, and fetches at least one; not {rows} and {most}")
    check_rate(rate)
    return min(rows, most, most_drawn(rows * rate))


def check_rate(rate: float) -> None:
    """Refuses a rate that is none.

    Raises:
        ConfigurationError: it is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:
        raise ConfigurationError(f"the rate of a draw is {rate}; it is a probability above 0 and at most 1")


def _numbers(rows: int, key: bytes) -> NDArray[np.uint64]:
    """The random number of each row."""
    numbers = np.empty(rows, np.uint64)
    for block, start in enumerate(range(0, rows, _BLOCK)):
        part = numbers[start : start + _BLOCK]
        stream = hashlib.shake_256(_DRAW + key + block.to_bytes(8, "big")).digest(8 * len(part))
        part[:] = np.frombuffer(stream, "<u8")
    return numbers
