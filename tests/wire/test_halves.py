"""Values in two bytes: on which grid they lie, by how much they are off, and that their mean stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloister.wire import halves
from cloister.wire.halves import HELD_AS, SLACK, fits, packed, rounded, widened
from cloister.wire.layout import Half

HALVES: tuple[Half, ...] = ("bfloat16", "float16")
ALL = np.arange(1 << 16, dtype=np.uint16)
TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SIGNIFICAND = {"bfloat16": 8, "float16": 11}


def values_of(half: Half) -> NDArray[np.float32]:
    """All finite values of the type, ascending, without -0."""
    found = widened(ALL.astype("<u2") if half == "bfloat16" else ALL.view("<f2"))
    return np.unique(found[np.isfinite(found)])


def neighbours(x: NDArray[Any], half: Half) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two values of the type that each value lies between; one twice where it is the type's own."""
    grid = values_of(half).astype(np.float64)
    above = grid[np.searchsorted(grid, x.astype(np.float64), side="left")]
    below = grid[np.searchsorted(grid, x.astype(np.float64), side="right") - 1]
    return below, above


def between(half: Half) -> NDArray[np.float32]:
    """One value between every two neighbours, at some place that is another one each time, where floats have one."""
    grid = values_of(half).astype(np.float64)
    places = np.random.default_rng(3).random(len(grid) - 1)
    return (grid[:-1] + np.diff(grid) * places).astype(np.float32)


@pytest.mark.parametrize("half", HALVES)
def test_every_pattern_of_bits_is_what_pytorch_takes_it_for(half: Half) -> None:
    packed_all = ALL.astype("<u2") if half == "bfloat16" else ALL.view("<f2")
    theirs = torch.from_numpy(ALL.view(np.int16)).view(TORCH[half]).float().numpy()
    assert np.array_equal(widened(packed_all), theirs, equal_nan=True)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("seed", [None, 0, 7])
def test_values_of_the_type_stay_as_they_are(half: Half, seed: int | None) -> None:
    values = np.append(values_of(half), np.float32(-0.0))
    found = rounded(values, to=half, seed=seed)
    assert found.tobytes() == values.tobytes()
    assert widened(packed(found, to=half)).tobytes() == values.tobytes()
    assert packed(found, to=half).dtype == HELD_AS[half]
    assert (
        packed(found, to=half).tobytes() == torch.from_numpy(found).to(TORCH[half]).view(torch.int16).numpy().tobytes()
    )


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_between_two_becomes_one_of_them(half: Half, dtype: Any) -> None:
    values = between(half).astype(dtype)
    below, above = neighbours(values, half)
    seen = np.zeros((2, len(values)), bool)
    for seed in range(40):
        found = rounded(values, to=half, seed=seed)
        assert found.dtype == dtype
        assert ((found == below) | (found == above)).all()
        seen |= np.stack([found == below, found == above])
    assert seen.all(axis=0).mean() > 0.8  # both of them come up


@pytest.mark.parametrize("half", HALVES)
def test_without_a_seed_it_is_the_one_nearer_to_zero(half: Half) -> None:
    values = between(half)
    below, above = neighbours(values, half)
    assert np.array_equal(rounded(values, to=half, seed=None), np.where(values > 0, below, above))


@given(
    st.sampled_from(HALVES),
    st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=9),
    st.integers(0, 2**64 - 1),
)
def test_a_value_is_off_by_less_than_a_unit_in_its_last_place(half: Half, given: list[float], seed: int) -> None:
    values = np.array(given, np.float32)
    off = np.abs(rounded(values, to=half, seed=seed).astype(np.float64) - values)
    least = 2.0**-24 if half == "float16" else 2.0**-133
    assert (off < np.maximum(np.abs(values).astype(np.float64) * 2.0 ** (1 - SIGNIFICAND[half]), least)).all()


def chances(x: np.float32, half: Half) -> float:
    """The exact probability of being rounded away from 0: over all random bits, which are counted."""
    below, above = sorted(map(abs, (each[0] for each in neighbours(np.array([x]), half))))
    if below == above:
        return 0.0
    whole = np.full(1 << 16, x, np.float32)
    coins = np.arange(1 << 16, dtype=np.uint16)
    found = np.abs(halves._rounded(whole, half, coins))
    return float((found == above).mean())


@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES)
def test_over_all_random_bits_the_mean_is_the_value(half: Half) -> None:
    """Exactly; of float16's subnormals to within 2^-40."""
    some = np.random.default_rng(5).choice(between(half), 300, replace=False)
    for x in some:
        below, above = sorted(map(abs, (float(each[0]) for each in neighbours(np.array([x]), half))))
        mean = below + (above - below) * chances(x, half)
        short = 2.0**-40 if half == "float16" and abs(x) < 2.0**-14 else 0.0
        assert -short <= mean - abs(float(x)) <= 0, x


@pytest.mark.parametrize("half", HALVES)
def test_what_many_round_adds_up_to_what_they_meant(half: Half) -> None:
    """Also where each value is far below half a unit in the last place of what it is rounded to."""
    values = (np.random.default_rng(1).standard_normal(1000) * 3e-5).astype(np.float32)
    runs = 2000
    total = sum(rounded(values, to=half, seed=seed).astype(np.float64) for seed in range(runs))
    off = total / runs - values
    below, above = neighbours(values, half)
    deviation = (above - below) / 2 / np.sqrt(runs)  # at most
    assert (np.abs(off) <= 5 * deviation).all()
    assert abs(off.sum()) <= 4 * np.sqrt((deviation**2).sum())


@pytest.mark.parametrize(("half", "most"), [("bfloat16", 2.0**-16), ("float16", 2.0**-22)])
def test_the_norm_grows_by_less_than_what_a_clip_leaves_for_it(half: Half, most: float) -> None:
    values = np.random.default_rng(2).standard_normal(100_000).astype(np.float32)
    below, above = neighbours(values, half)
    chance = (values - below) / np.where(above > below, above - below, 1)
    squares = float((values.astype(np.float64) ** 2).sum())
    assert 1 < float((chance * above**2 + (1 - chance) * below**2).sum()) / squares <= 1 + most  # in the mean
    for seed in range(20):
        found = float(np.linalg.norm(rounded(values, to=half, seed=seed).astype(np.float64)))
        assert found <= squares**0.5 / (1 - SLACK)


def test_the_same_seed_gives_the_same_bits_whatever_the_length() -> None:
    values = np.random.default_rng(4).standard_normal(70_001).astype(np.float32)
    found = rounded(values, to="bfloat16", seed=9)
    assert np.array_equal(rounded(values[:40_000], to="bfloat16", seed=9), found[:40_000])
    assert not np.array_equal(rounded(values, to="bfloat16", seed=10), found)
    # On every machine: a rehearsal comes to the bits of its simulation.
    small = np.array([1 + 2.0**-8, -1 - 2.0**-9, 3e-6, 0.1, 1e-20], np.float32)
    assert packed(rounded(small, to="bfloat16", seed=1), to="bfloat16").tolist() == [16257, 49024, 13898, 15821, 7741]
    assert packed(rounded(small, to="float16", seed=1), to="float16").view(np.uint16).tolist() == [
        15364,
        48130,
        51,
        11878,
        0,
    ]


@pytest.mark.parametrize(("half", "largest"), [("bfloat16", 3.3895313892515355e38), ("float16", 65504.0)])
def test_what_does_not_fit(half: Half, largest: float) -> None:
    assert largest == values_of(half)[-1]
    assert fits(np.array([largest, -largest]), to=half)
    assert fits(np.array([], np.float32), to=half)
    for beyond in (np.nextafter(np.float32(largest), np.float32(np.inf)), np.inf, -np.inf, np.nan):
        assert not fits(np.array([1.0, beyond], np.float32), to=half)
    assert np.isfinite(rounded(np.array([largest, -largest]), to=half, seed=3)).all()
