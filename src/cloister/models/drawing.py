"""Draws a first model from its recipe: the same to the last bit on every machine.

    key     SHA-256(label || digest || the tensor's name in UTF-8)
    stream  the ChaCha20 keystream of that key (RFC 8439, section 2.4: counter 0, nonce 0), in words of 64 bits,
            the least significant byte first
    u       from each word its upper 52 bits k, as (2 k + 1) / 2^53: within (0, 1), and never at its ends
    value   constant: the recipe's
            uniform: low + (high - low) u, rounded to the element type; what rounding took over an end is that end
            normal: mean + std z, rounded; z is the quantile of u (AS 241). Outside of low to high it is left out and
            the next word taken

Values fill a tensor in row-major order. The digest is that of all else that was agreed on (32 bytes), so that nobody
knows a model's values before everything about the study stands, and no two studies have the same.

Only what IEEE 754 rounds in one way happens to float64: sums, differences, products, quotients and roots, each in a
call of its own, so that no compiler joins two of them; and the logarithm is made of those. A mathematical library's
``log``, or a matrix product, has other last bits on other machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from cloister.errors import ConfigurationError
from cloister.models.recipe import Drawn, Recipe, entry_faults, faults

LABEL: Final = b"cloister first model 1\n"
DIGEST_BYTES: Final = 32
BLOCK: Final = 1 << 15
"""Words that are worked on at a time: what that takes stays in a processor's cache. No value depends on it."""

Doubles: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]

_WORD_BYTES: Final = 8
_MANTISSA_BITS: Final = 52
_MANTISSA: Final = np.uint64((1 << 52) - 1)
_ONE: Final = np.uint64(1023 << 52)
"""The bits of 1.0."""
_BELOW_ONE: Final = 1.0 - 2.0**-53
_LN_2: Final = 0.6931471805599453
_ROOT_2: Final = 1.4142135623730951

# The rational approximations of M. J. Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution",
# Applied Statistics 37 (1988), 477-484, routine PPND16: accurate to about 1 part in 10^16. Highest power first.
_CENTRE: Final = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_TAIL: Final = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
_FAR_TAIL: Final = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)
_CENTRE_WIDTH: Final = 0.425
_CENTRE_SQUARE: Final = 0.180625
_TAIL_SHIFT: Final = 1.6
_FAR: Final = 5.0
_LOG_TERMS: Final = tuple(2.0 / (2 * k + 1) for k in range(11, -1, -1))
"""Of ln m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1). Within sqrt(1/2) to sqrt(2), s^2 is below 0.0295, and
what is left out below 2^-60 of the whole."""


def bounds(entry: Drawn) -> tuple[float, float]:
    """The least and the greatest number of the entry's element type that a draw may give.

    ``low`` and ``high`` need not be numbers of that type: these are the nearest ones within them.
    """
    if entry.draw == "constant":
        value = float(np.dtype(entry.dtype).type(entry.value))
        return value, value
    kind = np.dtype(entry.dtype).type
    low, high = kind(entry.low), kind(entry.high)
    if float(low) < (entry.low or 0.0):
        low = np.nextafter(low, kind(np.inf))
    if float(high) > (entry.high or 0.0):
        high = np.nextafter(high, kind(-np.inf))
    return float(low), float(high)


def draw(recipe: Recipe, *, digest: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a recipe, by name. ``digest``: of all else that was agreed on, 32 bytes.

    Raises:
        ConfigurationError: the recipe has faults, or the digest is none.
    """
    for place, fault in faults(recipe):
        raise ConfigurationError(f"nothing can be drawn from this recipe: {place}: {fault}")
    return {entry.tensor: draw_tensor(entry, digest=digest) for entry in recipe}


def draw_tensor(entry: Drawn, *, digest: bytes, block: int = BLOCK) -> NDArray[Any]:
    """One tensor of a recipe, float32 or float64, of the entry's shape; ``block`` words are worked on at a time.

    Raises:
        ConfigurationError: the entry has faults, or the digest is none.
    """
    for place, fault in entry_faults(entry):
        raise ConfigurationError(f"nothing can be drawn for {entry.tensor!r}: {place}: {fault}")
    key = key_of(entry.tensor, digest=digest)
    values = np.empty(entry.elements, dtype=entry.dtype)
    match entry.draw:
        case "constant":
            values.fill(entry.value)
        case "uniform":
            _fill_uniform(values, entry, key, block)
        case "normal":
            _fill_normal(values, entry, key, block)
    return values.reshape(entry.shape)


def key_of(tensor: str, *, digest: bytes) -> bytes:
    """The key of a tensor's stream, 32 bytes.

    Raises:
        ConfigurationError: ``digest`` is not of 32 bytes.
    """
    if len(digest) != DIGEST_BYTES:
        raise ConfigurationError(f"a model is drawn for a digest of {DIGEST_BYTES} bytes, not of {len(digest)}")
    return hashlib.sha256(LABEL + digest + tensor.encode()).digest()


def blocks(key: bytes, *, words: int) -> Iterator[Words]:
    """The stream of a key, without end, in arrays of so many words: each is overwritten by the next."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros, stream = bytes(words * _WORD_BYTES), bytearray(words * _WORD_BYTES)
    while True:
        cipher.update_into(zeros, stream)
        yield np.frombuffer(stream, dtype="<u8")


def units(words: Words) -> Doubles:
    """Numbers within (0, 1), one for each word and in its place."""
    words >>= np.uint64(64 - _MANTISSA_BITS)
    words |= _ONE
    found: Doubles = words.view(np.float64)  # 1 + k / 2^52, from which what is to be left is exact
    found -= _BELOW_ONE
    return found


def _fill_uniform(values: NDArray[Any], entry: Drawn, key: bytes, block: int) -> None:
    low, high = float(entry.low or 0.0), float(entry.high or 0.0)
    least, greatest = map(values.dtype.type, bounds(entry))
    start = 0
    for words in blocks(key, words=min(block, len(values))):
        numbers = units(words)
        numbers *= high - low
        numbers += low
        place = values[start : start + len(numbers)]
        place[:] = numbers[: len(place)]
        np.maximum(place, least, out=place)
        np.minimum(place, greatest, out=place)
        start += len(place)
        if start == len(values):
            return


def _fill_normal(values: NDArray[Any], entry: Drawn, key: bytes, block: int) -> None:
    mean, std = float(entry.mean or 0.0), float(entry.std or 0.0)
    least, greatest = map(values.dtype.type, bounds(entry))
    start = 0
    for words in blocks(key, words=min(block, 2 * len(values))):
        numbers = quantiles(units(words))
        numbers *= std
        numbers += mean
        rounded = numbers.astype(values.dtype, copy=False)
        kept = rounded[(rounded >= least) & (rounded <= greatest)]
        place = values[start : start + len(kept)]
        place[:] = kept[: len(place)]
        start += len(place)
        if start == len(values):
            return


def quantiles(probabilities: Doubles) -> Doubles:
    """The numbers below which a standard normal variable lies with these probabilities: AS 241, PPND16.

    ``probabilities``: one dimension, each at least 2^-53 and at most 1 - 2^-53.
    """
    offsets = probabilities - 0.5
    squares = offsets * offsets
    np.subtract(_CENTRE_SQUARE, squares, out=squares)
    found = _polynomial(_CENTRE[0], squares)
    found *= offsets
    found /= _polynomial(_CENTRE[1], squares)
    outer = np.flatnonzero(np.abs(offsets) > _CENTRE_WIDTH)
    nearest = probabilities[outer]
    np.minimum(nearest, 1.0 - nearest, out=nearest)
    roots = np.sqrt(-logarithms(nearest))
    far = roots > _FAR
    sizes = _ratio(_TAIL, roots - _TAIL_SHIFT)
    sizes[far] = _ratio(_FAR_TAIL, roots[far] - _FAR)
    found[outer] = np.where(offsets[outer] < 0.0, -sizes, sizes)
    return found


def logarithms(numbers: Doubles) -> Doubles:
    """Natural logarithms of positive normal numbers in float64, to a few units in the last place."""
    bits = numbers.view(np.uint64)
    fractions: Doubles = ((bits & _MANTISSA) | _ONE).view(np.float64)
    exponents = (bits >> np.uint64(_MANTISSA_BITS)).astype(np.float64)
    exponents -= 1023.0
    large = fractions > _ROOT_2
    fractions *= np.where(large, 0.5, 1.0)
    exponents += large
    ratios = fractions - 1.0
    ratios /= fractions + 1.0
    found = _polynomial(_LOG_TERMS, ratios * ratios)
    found *= ratios
    exponents *= _LN_2
    found += exponents
    return found


def _ratio(of: tuple[Sequence[float], Sequence[float]], at: Doubles) -> Doubles:
    found = _polynomial(of[0], at)
    found /= _polynomial(of[1], at)
    return found


def _polynomial(coefficients: Sequence[float], at: Doubles) -> Doubles:
    """Horner's rule, a product and a sum at a time."""
    found = np.full_like(at, coefficients[0])
    for coefficient in coefficients[1:]:
        found *= at
        found += coefficient
    return found
