"""Values in two bytes, bfloat16 or float16: rounded so that their mean stays, and widened again.

    rounded(x) is one of the two values of the type that x lies between: the one farther from 0 with the probability
    (|x| - |the nearer to 0|) / (the distance of the two), so that the mean over all chance is x.

So what many parties round adds up to what they meant, where rounding to the nearest value would drop all that is below
half a unit in the last place (Gupta, Agrawal, Gopalakrishnan, Narayanan: "Deep Learning with Limited Numerical
Precision", ICML 2015, section 3.1). A float32 has 16 bits more than a bfloat16, and 13 more than a normal float16: as
many random bits are added to its own, which decides by a carry, and what is left of them is cut off. Float16's
subnormals, below 2^-14, lie on a grid of 2^-24; there x is cut to 2^-40 first, by which the mean may be closer to 0.

    each value       is off by less than one unit in the last place: by 2^-7 |x| at most for bfloat16, by 2^-10 |x| for
                     float16, by 2^-24 for its subnormals
    the square norm  is longer in the mean by 2^-16 of itself at most for bfloat16, by 2^-22 for float16, by 2^-50 more
                     for each of its subnormals: the variance of a value is p (1 - p) <= 1/4 of its unit squared

Float64 is rounded to the nearest float32 before. NumPy has no bfloat16: such vectors are of uint16, the upper halves of
float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.wire.layout import Half

SLACK: Final = 2.0**-12
"""By how much less than its limit, relatively, a vector is clipped that is rounded afterwards: more than rounding adds
to the norm of all but short vectors. A vector that is longer all the same is cut towards 0."""

HELD_AS: Final[dict[Half, np.dtype[Any]]] = {"bfloat16": np.dtype("<u2"), "float16": np.dtype("<f2")}
"""NumPy's element type of a vector that travels in two bytes."""
_LARGEST: Final[dict[Half, float]] = {"bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": (2 - 2.0**-10) * 2.0**15}
_BITS: Final[dict[Half, int]] = {"bfloat16": 16, "float16": 13}
"""By how many bits a float32's significand is longer."""
_NORMAL: Final = 2.0**-14
"""The least normal float16."""
_BLOCK: Final = 1 << 15
"""Values that are rounded at a time, so that they stay in a core's cache."""

Floats: TypeAlias = NDArray[np.floating[Any]]


def fits(values: Floats, *, to: Half) -> bool:
    """Whether all values are finite and not beyond the type's largest."""
    return not len(values) or bool(np.abs(values).max() <= _LARGEST[to])


def rounded(values: Floats, *, to: Half, seed: int | None) -> Floats:
    """Each value as one of the half type's, in the element type that it had. They have to fit (``fits``).

    A pure function of values and seed, on every machine.

    Args:
        values: a flat vector of float32 or float64.
        seed: from 0 to 2^64 - 1, of all chance; None: all are rounded towards 0, so that nothing gets longer.
    """
    found = np.empty_like(values)
    for block, coins in zip(_blocks(len(values)), _coins(seed, len(values)), strict=True):
        found[block] = _rounded(values[block].astype(np.float32), to, coins)
    return found


def packed(values: Floats, *, to: Half) -> NDArray[Any]:
    """Values of the half type (``rounded``) in two bytes each; those of others are rounded somehow."""
    if to == "float16":
        return values.astype(HELD_AS[to])
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(HELD_AS[to])


def widened(values: NDArray[Any]) -> Floats:
    """What was packed, as floats that NumPy computes with; other vectors as they are."""
    if values.dtype == HELD_AS["bfloat16"]:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if values.dtype == HELD_AS["float16"] else values


def _rounded(values: NDArray[np.float32], to: Half, coins: NDArray[np.uint16]) -> NDArray[np.float32]:
    cut = (1 << _BITS[to]) - 1
    bits = values.view(np.uint32) + (coins & np.uint16(cut))
    found: NDArray[np.float32] = (bits & np.uint32(~cut & 0xFFFFFFFF)).view(np.float32)
    if to == "float16":
        small = np.flatnonzero(np.abs(values) < _NORMAL)
        whole = (np.abs(values[small]) * np.float32(2.0**40)).astype(np.uint32) + coins[small] >> 16
        found[small] = np.copysign(whole.astype(np.float32) * np.float32(2.0**-24), values[small])
    return found


def _coins(seed: int | None, length: int) -> Iterator[NDArray[np.uint16]]:
    """Random bits for each block; no bit is set where there is no seed."""
    bits = None if seed is None else np.random.PCG64(seed)
    for block in _blocks(length):
        count = block.stop - block.start
        if bits is None:
            yield np.zeros(count, np.uint16)
        else:
            yield bits.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]


def _blocks(length: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]
