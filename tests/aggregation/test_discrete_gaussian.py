"""Draws of the discrete Gaussian: their distribution, and that floats decide nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister.aggregation.discrete_gaussian import (
    _FARTHEST,
    _MARGIN,
    LEAST,
    MOST,
    _bounds,
    _exponential,
    _threshold,
    discrete_gaussian,
)
from cloister.aggregation.vectors import BLOCK
from cloister.errors import ConfigurationError

MODULE: Final = "cloister.aggregation.discrete_gaussian"
SIGMAS: Final = (LEAST, 0.5, 1.0, math.pi, 131072.0, MOST)
UNIT: Final = Fraction(1, 2**53)
MOST_DEVIATIONS: Final = 4.0
"""Seeds are fixed, so that a test passes always or never; of a right sampler one seed in 10^4 would not."""


class Source:
    """Bytes of a seed, after ``first``; ``asked`` is all that was given."""

    def __init__(self, seed: int = 0, first: Sequence[bytes] = ()) -> None:
        self._generator = np.random.default_rng(seed)
        self._first = list(first)
        self.asked: list[bytes] = []

    def __call__(self, count: int) -> bytes:
        given = self._first.pop(0) if self._first else self._generator.bytes(count)
        assert len(given) == count
        self.asked.append(given)
        return given


def probabilities(sigma: float, farthest: int) -> NDArray[np.float64]:
    """Of the whole numbers from -``farthest`` to ``farthest``, of which there are enough for the sum to be 1."""
    weights = np.exp(-((np.arange(-farthest, farthest + 1) / sigma) ** 2) / 2)
    return np.asarray(weights / math.fsum(weights))


def deviations(counts: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """How far the chi-square statistic is above its mean, in standard deviations (Wilson and Hilferty 1931)."""
    assert expected.min() > 9
    free = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return ((statistic / free) ** (1 / 3) - 1 + 2 / (9 * free)) / math.sqrt(2 / (9 * free))


def from_discrete_gaussian(draws: NDArray[np.int64], sigma: float) -> float:
    """The deviations of draws from what they should be; rare ones count together, on either side."""
    farthest = math.ceil(40 * sigma)
    expected = probabilities(sigma, farthest) * len(draws)
    counts = np.bincount(draws + farthest, minlength=2 * farthest + 1)
    often = np.flatnonzero(expected > 20)
    edges = [0, *range(often[0], often[-1] + 2)]
    expected, counts = np.add.reduceat(expected, edges), np.add.reduceat(counts, edges)
    common = expected > 9
    assert counts[~common].sum() < 40
    return deviations(counts[common], expected[common])


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.4, 0.5, 1.0, 1.5, 3.7, 40.0])
def test_draws_have_their_probabilities(sigma: float) -> None:
    draws = discrete_gaussian(sigma, size=200_000, random=Source(1))
    assert abs(from_discrete_gaussian(draws, sigma)) < MOST_DEVIATIONS


def test_other_distributions_are_noticed() -> None:
    draws = discrete_gaussian(1.0, size=100_000, random=Source(2))
    generator = np.random.default_rng(0)
    others = {
        "wider by 3 %": discrete_gaussian(1.03, size=100_000, random=Source(3)),
        "rounded": np.rint(generator.normal(size=100_000)).astype(np.int64),
        "few of one sign": np.where(generator.random(100_000) < 0.05, np.abs(draws), draws),
        "too many zeros": np.where(generator.random(100_000) < 0.04, 0, draws),
    }
    assert abs(from_discrete_gaussian(draws, 1.0)) < MOST_DEVIATIONS
    assert not [name for name, each in others.items() if from_discrete_gaussian(each, 1.0) < 2 * MOST_DEVIATIONS]


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [40.0, 131072.0, MOST])
def test_moments_and_last_bits_of_wide_noise(sigma: float) -> None:
    size = 1_000_000
    draws = discrete_gaussian(sigma, size=size, random=Source(4))
    z = draws / sigma
    assert abs(z.mean()) * math.sqrt(size) < MOST_DEVIATIONS
    assert abs((z**2).mean() - 1) / math.sqrt(2 / size) < MOST_DEVIATIONS
    assert abs((z**3).mean()) / math.sqrt(15 / size) < MOST_DEVIATIONS
    assert abs((z**4).mean() - 3) / math.sqrt(96 / size) < MOST_DEVIATIONS
    assert abs(deviations(np.bincount(draws & 63, minlength=64), np.full(64, size / 64))) < MOST_DEVIATIONS


def by_the_paper(asked: Sequence[bytes], sigma: float) -> Iterator[int]:
    """What the given bytes come to, by events U < exp(-g) and in decimals; it stops where 63 bits leave one open."""
    t = math.floor(sigma) + 1
    shift, twice = Fraction(sigma) ** 2 / t, 2 * Fraction(sigma) ** 2
    for block in asked:
        words = [int.from_bytes(block[at : at + 8], "little") for at in range(0, len(block), 8)]
        for first, second in zip(words[: len(words) // 2], words[len(words) // 2 :], strict=True):
            size = math.floor(-Decimal(first % 2**63 / 2**63).ln() * t)
            size += below(first, Fraction(size + 1, t)) - (not below(first, Fraction(size, t)))
            if below(second, (size - shift) ** 2 / twice) and (size or first < 2**63):
                yield size if first < 2**63 else -size


def below(word: int, g: Fraction) -> bool:
    """Whether U < exp(-g), for a U whose first bits are those of ``word`` but for its highest."""
    with localcontext(Context(prec=60)):
        limit = (-Decimal(g.numerator) / Decimal(g.denominator)).exp() * 2**63
    word %= 2**63
    assert not word <= limit <= word + 1
    return word < limit


@pytest.mark.slow
@pytest.mark.parametrize("sigma", SIGMAS)
def test_draws_are_those_of_the_paper(sigma: float) -> None:
    source = Source(5)
    draws = discrete_gaussian(sigma, size=1000, random=source)
    assert draws.tolist() == list(by_the_paper(source.asked, sigma))[:1000]


def both_ways(
    sigma: float, *, size: int, source: Callable[[], Source], monkeypatch: pytest.MonkeyPatch
) -> tuple[NDArray[np.int64], Source]:
    """Draws, after a look at whether they are the same where no float decides anything, and of the same bytes."""
    quick, slow = source(), source()
    draws = discrete_gaussian(sigma, size=size, random=quick)
    with monkeypatch.context() as patch:
        patch.setattr(f"{MODULE}._FARTHEST", -1.0)
        assert np.array_equal(draws, discrete_gaussian(sigma, size=size, random=slow))
    assert quick.asked == slow.asked
    return draws, quick


@pytest.mark.slow
@pytest.mark.parametrize("sigma", SIGMAS)
def test_floats_decide_as_fractions_do(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draws, _ = both_ways(sigma, size=5000, source=lambda: Source(6), monkeypatch=monkeypatch)
    assert draws.dtype == np.int64
    assert len(draws) == 5000


def word_at(g: Fraction, off: int) -> int:
    """The first 63 bits of exp(-g), moved by ``off`` in their last place."""
    with localcontext(Context(prec=60)):
        limit = (-Decimal(g.numerator) / Decimal(g.denominator)).exp() * 2**63
    return min(max(int(limit) + off, 0), 2**63 - 1)


def at_thresholds(sigma: float, *, candidates: int) -> bytes:
    """Bytes of candidates of which one half all but is of the next size, and the other all but kept or rejected."""
    generator = np.random.default_rng(7)
    exact, t = Fraction(sigma), math.floor(sigma) + 1
    firsts, seconds = [], []
    for at in range(candidates):
        off = int(generator.choice([-1, 1])) * int(2 ** generator.uniform(0, 24)) * int(generator.integers(2))
        size = int(generator.exponential() * t)
        first, g = Fraction(2 * size + 1, 2 * t), (size - exact**2 / t) ** 2 / (2 * exact**2)
        firsts.append(word_at(first, 0) if at % 2 else word_at(Fraction(size, t), off))
        seconds.append(word_at(g, off) if at % 2 else int(generator.integers(2**63)))
    return np.array(firsts + seconds, "<i8").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 8])
@pytest.mark.parametrize("sigma", SIGMAS[1:])
def test_next_to_thresholds_too_even_with_an_eighth_of_the_margin(
    sigma: float, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}._MARGIN", _MARGIN / part)
    block = at_thresholds(sigma, candidates=2000)
    _, source = both_ways(sigma, size=1000, source=lambda: Source(8, [block]), monkeypatch=monkeypatch)
    assert source.asked.count(block) == 1
    assert sum(len(each) == 8 for each in source.asked) > 100  # were decided by further bits


@pytest.mark.parametrize(("zeros", "kept"), [(24, True), (23, False)])
def test_more_bits_are_drawn_until_it_is_certain(zeros: int, kept: bool) -> None:
    # At first all bits of both numbers of a candidate are 0. Then U = 2^-64, so that |X| = floor(4 * 64 ln 2) = 177 and
    # g = 1070.1, and U' = 2^-(64 + 64 zeros), with E' = 1109.0 or 1064.7. The other candidate is 1, and is kept.
    sigma, half = 3.75, (1 << 63).to_bytes(8, "little")
    block = np.array([0, word_at(Fraction(3, 8), 0), 0, 1 << 61], "<i8").tobytes()
    source = Source(9, [block, half, *[bytes(8)] * zeros, half])
    assert discrete_gaussian(sigma, size=1, random=source).tolist() == [177 if kept else 1]
    assert len(source.asked) == zeros + 3


@pytest.mark.slow
def test_an_exponential_is_as_near_as_the_table_says() -> None:
    generator = np.random.default_rng(14)
    least = math.ceil(2**63 * math.exp(-_FARTHEST))
    words = [least + off for off in range(100)] + [2**63 - 1 - off for off in range(100)]
    words += [(1 << bits) + off for bits in range(49, 63) for off in (-1, 0, 1)]
    words += [int(least ** (1 - part) * 2 ** (63 * part)) for part in generator.random(2000)]
    with localcontext(Context(prec=50)):
        for word, e in zip(words, _exponential(np.array(words)), strict=True):
            for end in (word, word + 1):
                assert abs(Fraction(Decimal(float(e)) + (Decimal(end) / 2**63).ln())) <= (22 + 2 + 8 * 16) * UNIT


def test_a_threshold_is_as_near_as_the_table_says() -> None:
    generator = np.random.default_rng(15)
    for sigma in [*SIGMAS, 0.75, 1 - 2**-53, 2 - 2**-52, *(2 ** generator.uniform(-4, 32, size=500))]:
        scale = int(sigma) + 1
        sizes = [0, 1, 2, *(int(each * scale) for each in generator.uniform(0, 11, size=10))]
        for size, g in zip(sizes, _threshold(np.array(sizes), float(sigma), scale), strict=True):
            exact = _threshold(Fraction(size), Fraction(float(sigma)), scale)
            assert abs(Fraction(float(g)) - exact) <= (65 if exact <= 11 else 6 * exact) * UNIT


def test_bounds_hold_and_come_closer() -> None:
    generator = np.random.default_rng(16)
    for word in (0, 1, 2, 1 << 40, (1 << 62) - 1, 2**63 - 1, *map(int, generator.integers(2**63, size=20))):
        source, bits = Source(word), 63
        bounds = _bounds(word, random=source)
        for _ in range(3):
            low, high = next(bounds)
            for each in source.asked:
                word, bits = word << 64 | int.from_bytes(each, "little"), bits + 64
            source.asked.clear()
            with localcontext(Context(prec=150)):
                assert low < Fraction(-((Decimal(word + 1) / 2**bits).ln()))
                assert Fraction(-((Decimal(word) / 2**bits).ln())) < high <= low + Fraction(3, word)


def test_all_chance_is_from_the_bytes() -> None:
    one, again, other = (discrete_gaussian(131072.0, size=100, random=Source(seed)).tolist() for seed in (10, 10, 11))
    assert one == again
    assert not set(one) & set(other)


def test_sizes() -> None:
    source = Source(12)
    assert discrete_gaussian(1.0, size=0, random=source).tolist() == []
    assert source.asked == []
    assert discrete_gaussian(1.0, size=2 * BLOCK + 1, random=source).shape == (2 * BLOCK + 1,)
    assert max(map(len, source.asked)) == 16 * BLOCK


@pytest.mark.parametrize(
    "sigma", [math.nan, math.inf, -math.inf, 0.0, -1.0, math.nextafter(LEAST, 0), math.nextafter(MOST, math.inf)]
)
def test_sigmas_that_are_refused(sigma: float) -> None:
    source = Source()
    with pytest.raises(ConfigurationError, match="noise has the sigma"):
        discrete_gaussian(sigma, size=1, random=source)
    assert source.asked == []


def test_the_least_noise_is_none() -> None:
    assert not discrete_gaussian(LEAST, size=1000, random=Source(13)).any()
