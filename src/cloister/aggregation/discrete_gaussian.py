"""The discrete Gaussian, drawn exactly: whole numbers x, with probabilities in proportion to exp(-x^2 / (2 sigma^2)).

    |X| = floor(t E), and a sign;    kept if E' > g = (|X| - sigma^2 / t)^2 / (2 sigma^2);    t = floor(sigma) + 1

Canonne, Kamath, Steinke: "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, Algorithms 1 to 3, with other
coins: E = -ln U is exponential if U is a uniform real number, so that E > g with the probability exp(-g).

What a float rounds shows in noise, and tells of what is under it (Mironov: "On Significance of the Least Significant
Bits For Differential Privacy", CCS 2012). Here no rounding decides anything: of U there are its first 63 bits, m, and
where e = -log((m + 1) / 2^63) is closer to a decision than ``_MARGIN``, more bits and digits are taken until it is
certain. So the draws are a function of the bytes, on every machine. As far as e <= 10, in units of 2^-53, this is off:

    what was not drawn of U         1 / m, at most e^10 / 2^63                                                      22
    e                               m + 1 within 2, and a logarithm within 8 ulp (NumPy's tests ask for 1)    2 + 8 * 16
    t (e - _MARGIN), over t         half an ulp, and a factor within 1                                            8 + 10
    or g, as far as g <= 11         2 |z| + z^2 + 3 g, for z = (|X| - sigma^2 / t) / sigma and so |z| < 4.7           65

That is less than 256, and ``_MARGIN`` is 2048. A larger g is within 6 g and thus above e, as the true one is above E.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.vectors import BLOCK
from cloister.errors import ConfigurationError

LEAST: Final = 2.0**-4
"""The least sigma: with less, fewer than one draw in 2^180 would be other than 0."""
MOST: Final = 2.0**32
"""The largest sigma: with more, floats would leave more than one candidate in 2^9 undecided. The draws fit an int64."""

_MARGIN: Final = 2.0**-42
"""How close e may be to what decides, if floats are to decide."""
_FARTHEST: Final = 10.0
"""The largest e with which floats decide: of a smaller U, too few bits that are not 0 were drawn."""
_BITS: Final = 63
"""The bits that are drawn of each U at first; a word's highest bit is the sign."""


def discrete_gaussian(sigma: float, *, size: int, random: Callable[[int], bytes]) -> NDArray[np.int64]:
    """``size`` independent draws. ``sigma``: the fraction that this float is, to the last bit. ``random(n)``: n uniform
    bytes; all chance is from there.

    Their standard deviation is below ``sigma``, and from 1 on by less than one part in 10^6.

    Raises:
        ConfigurationError: ``sigma`` is not between ``LEAST`` and ``MOST``.
    """
    if not LEAST <= sigma <= MOST:
        raise ConfigurationError(f"noise has the sigma {sigma}: give one between {LEAST} and {MOST}")
    draws = np.empty(size, np.int64)
    done = 0
    while done < size:
        kept = _kept(min(BLOCK, 2 * (size - done)), sigma=float(sigma), random=random)[: size - done]
        draws[done : done + len(kept)] = kept
        done += len(kept)
    return draws


def _kept(candidates: int, *, sigma: float, random: Callable[[int], bytes]) -> NDArray[np.int64]:
    """What is kept of so many candidates."""
    words = np.frombuffer(random(16 * candidates), "<i8").reshape(2, candidates)
    negative = words[0] < 0
    first, second = words & (2**_BITS - 1)
    scale = int(sigma) + 1

    e = _exponential(first)
    low = np.floor((e - _MARGIN) * scale)
    sizes = low.astype(np.int64)
    for at in np.flatnonzero((low != np.floor((e + _MARGIN) * scale)) | (e > _FARTHEST)):
        sizes[at] = _floor(int(first[at]), scale=scale, random=random)

    e = _exponential(second)
    beyond = e - _threshold(sizes, sigma, scale)
    kept: NDArray[np.bool_] = beyond > 0
    for at in np.flatnonzero((np.abs(beyond) <= _MARGIN) | (e > _FARTHEST)):
        threshold = _threshold(Fraction(int(sizes[at])), Fraction(sigma), scale)
        kept[at] = _exceeds(int(second[at]), threshold=threshold, random=random)

    kept &= ~negative | (sizes > 0)  # or 0, which has no sign, would come twice as often
    return np.where(negative, -sizes, sizes)[kept]


def _threshold(size: Any, sigma: Any, scale: int) -> Any:
    """g, of floats or of fractions."""
    return (size - sigma * sigma / scale) ** 2 / (2 * sigma * sigma)


def _exponential(words: NDArray[np.int64]) -> NDArray[np.float64]:
    """e, where the first bits of U are these."""
    logarithms: NDArray[np.float64] = np.log((words + 1.0) * 2.0**-_BITS)
    return -logarithms


def _bounds(word: int, *, random: Callable[[int], bytes]) -> Iterator[tuple[Fraction, Fraction]]:
    """Bounds of E, where the first bits of U are these; each time closer, by more bits.

    E is between -ln(m / 2^bits) - 1 / m and -ln(m / 2^bits). Decimal rounds quotients and logarithms correctly: with
    bits / 2 digits they are off by far less than 2^-bits, which is less than 1 / m.
    """
    bits = _BITS
    while True:
        if word:  # or E has no upper bound
            context = Context(prec=bits // 2)
            e = -Fraction(context.ln(context.divide(Decimal(word), Decimal(2**bits))))
            yield e - Fraction(2, word), e + Fraction(1, word)
        word, bits = word << 64 | int.from_bytes(random(8), "little"), bits + 64


def _floor(word: int, *, scale: int, random: Callable[[int], bytes]) -> int:
    """floor(t E)."""
    floors = ((math.floor(scale * low), math.floor(scale * high)) for low, high in _bounds(word, random=random))
    return next(low for low, high in floors if low == high)


def _exceeds(word: int, *, threshold: Fraction, random: Callable[[int], bytes]) -> bool:
    """Whether E > g."""
    return next(low > threshold for low, high in _bounds(word, random=random) if not low <= threshold <= high)
