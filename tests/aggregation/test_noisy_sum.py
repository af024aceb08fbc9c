"""Sums in whole numbers: exact in any order, with noise that is drawn once, of parts none of which is too long."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.aggregation.discrete_gaussian import discrete_gaussian
from cloister.aggregation.noisy_sum import NoisySum, on_grid
from cloister.aggregation.vectors import BLOCK, blocks
from cloister.errors import AggregationError
from cloister.wire.fixed_point import UNITS

LENGTH = 5
int32s = st.integers(-(2**31) + 1, 2**31 - 1)
parts = st.lists(st.lists(int32s, min_size=LENGTH, max_size=LENGTH), min_size=1, max_size=8)


def bytes_from(seed: int) -> Callable[[int], bytes]:
    return np.random.Generator(np.random.PCG64(seed)).bytes


def counting(seed: int, counts: list[int]) -> Callable[[int], bytes]:
    """The same, which notes how many are asked for."""
    source = bytes_from(seed)

    def give(count: int) -> bytes:
        counts.append(count)
        return source(count)

    return give


def noise_of(multiplier: float, length: int, seed: int) -> np.ndarray:
    """The noise that comes of these bytes, block by block."""
    source = bytes_from(seed)
    drawn = [
        discrete_gaussian(multiplier * UNITS, size=len(range(length)[block]), random=source) for block in blocks(length)
    ]
    return np.concatenate(drawn)


def summed(added: list[list[int]], *, scale: float = 1.0, multiplier: float = 0.5, seed: int = 7) -> np.ndarray:
    total = NoisySum(LENGTH)
    for each in added:
        total.add(np.array(each, np.int32))
    return total.mean(multiplier=multiplier, scale=scale, random=bytes_from(seed))


@given(parts, st.integers(0, 2**32))
def test_it_is_the_exact_sum_and_the_noise_in_whatever_order(added: list[list[int]], seed: int) -> None:
    found = summed(added)
    noise = noise_of(0.5, LENGTH, 7).tolist()
    exact = [sum(column) + each for column, each in zip(zip(*added, strict=True), noise, strict=True)]
    assert found.tolist() == exact
    mixed = random.Random(seed).sample(added, len(added))
    assert summed(mixed).tobytes() == found.tobytes()


def test_parts_longer_than_a_block() -> None:
    part = np.arange(BLOCK + 3, dtype=np.int32)
    total = NoisySum(len(part))
    total.add(part)
    total.add(part)
    found = total.mean(multiplier=3.0, scale=1.0, random=bytes_from(1))
    assert np.array_equal(found, 2 * part + noise_of(3.0, len(part), 1))


@pytest.mark.parametrize("multiplier", [0.02, 1.0, 8.0])
@pytest.mark.parametrize("members", [1, 100])
def test_the_deviation_is_the_multiplier_times_one_contribution_however_many_there_are(
    multiplier: float, members: int
) -> None:
    part = np.full(4000, 11, np.int32)
    total = NoisySum(len(part))
    for _ in range(members):
        total.add(part)
    noise = total.mean(multiplier=multiplier, scale=1.0, random=bytes_from(2)) - 11 * members
    sigma = multiplier * UNITS
    # Of so many draws, a mean or a deviation that is off by so much comes up less than once in 10^9.
    assert abs(noise.mean()) < 6.2 * sigma / len(noise) ** 0.5
    assert abs(noise.std() / sigma - 1) < 6.2 / (2 * len(noise)) ** 0.5


def test_all_chance_is_in_the_bytes_and_they_are_drawn_when_all_are_there() -> None:
    asked: list[int] = []
    total = NoisySum(LENGTH)
    total.add(np.ones(LENGTH, np.int32))
    assert not asked
    found = total.mean(multiplier=1.0, scale=1.0, random=counting(3, asked))
    once: list[int] = []
    discrete_gaussian(UNITS, size=LENGTH, random=counting(3, once))
    assert asked == once
    assert found.tolist() == summed([[1] * LENGTH], multiplier=1.0, seed=3).tolist()
    assert found.tolist() != summed([[1] * LENGTH], multiplier=1.0, seed=4).tolist()


def test_the_mean_is_scaled_after_the_noise() -> None:
    added = [[1, -2, 300, 2**31 - 1, 0]]
    assert summed(added, scale=0.37).tolist() == (summed(added) * 0.37).tolist()


def test_the_mean_takes_the_sums_place_and_leaves_it_empty() -> None:
    total = NoisySum(LENGTH)
    held = total._sum
    found = total.mean(multiplier=1.0, scale=1.0, random=bytes_from(0))
    assert np.shares_memory(found, held)
    assert len(total.mean(multiplier=1.0, scale=1.0, random=bytes_from(0))) == 0


# On the grid


def shortened(values: list[float], clip: float) -> np.ndarray:
    """A vector in float32 whose norm is the clip, as an owner shortens it."""
    update = np.array(values, np.float32)
    norm = float(np.linalg.norm(update.astype(np.float64)))
    return update * np.float32(clip / norm) if norm else update


vectors = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60)


@given(vectors, st.floats(1e-3, 1e3))
def test_what_is_as_long_as_the_clip_is_taken_and_never_lengthened(values: list[float], clip: float) -> None:
    update = shortened(values, clip)
    found = on_grid(update, clip=clip)
    assert found.dtype == np.int32
    assert sum(each * each for each in found.tolist()) <= UNITS**2
    for before, after in zip(update.tolist(), found.tolist(), strict=True):
        units = Fraction(before) / Fraction(clip) * UNITS
        assert abs(after) <= abs(units)  # towards 0, and no value changes its sign
        assert after * before >= 0
        assert abs(units - after) < 1 + UNITS * 2**-19


def test_vectors_longer_than_a_block() -> None:
    update = shortened(np.random.default_rng(0).normal(size=2 * BLOCK + 5).tolist(), 0.3)
    found = on_grid(update, clip=0.3)
    assert np.abs(found - update.astype(np.float64) / 0.3 * UNITS).max() < 2
    assert sum(each * each for each in found.tolist()) <= UNITS**2


@pytest.mark.parametrize(
    "update",
    [
        [1.0001],
        [-1.0001],
        [0.7072, 0.7072],
        [1 / 256] * 66_200,
        [0.0, float("nan")],
        [0.0, float("inf")],
        [1e30, 0.0],
    ],
    ids=["one value", "below zero", "two values", "many blocks", "no number", "infinite", "far too long"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_longer_is_refused(update: list[float], dtype: type) -> None:
    with pytest.raises(AggregationError, match="longer than the charter's clip"):
        on_grid(np.array(update, dtype), clip=1.0)


def test_the_count_is_of_what_is_on_the_grid_over_all_blocks() -> None:
    """Each block alone would be short enough."""
    update = np.zeros(2 * BLOCK)
    update[[0, BLOCK]] = 0.7072
    with pytest.raises(AggregationError):
        on_grid(update, clip=1.0)
    update[BLOCK] = 0.7070
    assert on_grid(update, clip=1.0)[[0, BLOCK]].tolist() == [46347, 46333]
