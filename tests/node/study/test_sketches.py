"""Whether two models are one but for rounding, by their sketches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.node.study.sketches import BUCKETS, near, sketch

KEY = bytes(range(32))
LENGTHS = [1, BUCKETS - 1, BUCKETS, 5 * BUCKETS + 3, (1 << 16) - 1, 1 << 16, (1 << 16) + 300, 3 * (1 << 16) + 1]


def drawn(length: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_each_coordinate_counts_once_with_a_sign(length: int) -> None:
    places = [0, length // 2, length - 1, length * 2 // 3]
    for place in places:
        vector = np.zeros(length, np.float32)
        vector[place] = 2.5
        found = np.frombuffer(sketch(vector, key=KEY))
        assert found.shape == (BUCKETS,)
        assert np.abs(found).tolist() == [2.5 * (bucket == place % BUCKETS) for bucket in range(BUCKETS)]


def test_signs_are_as_often_of_one_kind_in_places_and_blocks() -> None:
    """As often as five deviations allow, of 256 places and of 64 blocks."""
    vector = np.ones(BUCKETS, np.float32)
    assert abs(np.frombuffer(sketch(vector, key=KEY)).sum()) < 5 * BUCKETS**0.5
    vector = np.zeros(64 << 16, np.float32)
    vector[:: 1 << 16] = 1
    assert 0 < abs(np.frombuffer(sketch(vector, key=KEY))[0]) < 5 * 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [300, 5000, 300_000])
def test_a_sketch_tells_how_far_two_models_are_apart(length: int, dtype: type) -> None:
    model = drawn(length).astype(dtype)
    for part in (0.5, 0.05, 0.01):
        other = model + (part * drawn(length, 1)).astype(dtype)
        ours, theirs = (np.frombuffer(sketch(each, key=KEY)) for each in (model, other))
        apart = np.linalg.norm(ours - theirs) / np.linalg.norm(model - other)
        assert 0.7 < apart < 1.3


def test_also_where_the_difference_repeats_itself() -> None:
    """From block to block, or is the same for all coordinates: no pattern makes a distance look like another."""
    for pattern in (np.ones(1), drawn(BUCKETS), drawn(1 << 12), drawn(1 << 16)):
        difference = np.tile(pattern, (30 << 16) // len(pattern)).astype(np.float32)
        for key in (KEY, bytes(32), bytes(31) + b"1"):
            apart = np.linalg.norm(np.frombuffer(sketch(difference, key=key))) / np.linalg.norm(difference)
            assert 0.6 < apart < 1.4


@given(st.integers(1, 2000), st.integers(0, 1 << 32))
def test_a_rounded_model_is_near_and_another_is_not(length: int, seed: int) -> None:
    model = drawn(length, seed)
    bits = model.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)  # as bfloat16
    assert near(sketch(model, key=KEY), sketch(rounded, key=KEY))
    assert near(sketch(model, key=KEY), sketch(np.nextafter(model, np.float32(9)), key=KEY))
    assert not near(sketch(model, key=KEY), sketch(1.02 * model, key=KEY))
    assert not near(sketch(model, key=KEY), sketch(drawn(length, seed + 1), key=KEY))


def test_another_memory_has_other_signs() -> None:
    model = drawn(70_000)
    assert not near(sketch(model, key=KEY), sketch(model, key=bytes(32)))


def test_what_cannot_be_told_is_near() -> None:
    """Nothing is contributed twice on models that are not numbers."""
    model = drawn(1000)
    for value in (np.inf, np.nan):
        assert near(sketch(model, key=KEY), sketch(np.full(1000, value, np.float32), key=KEY))
