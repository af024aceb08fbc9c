"""How a training ends: no longer than it may be, in values that its type holds, without bias where there is room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cloister.errors import TrainingError
from cloister.wire.halves import packed, rounded, widened
from cloister.wire.layout import Half, Regions
from cloister.worker import flatten as deltas
from cloister.worker.ending import Ending

HALVES: tuple[Half, ...] = ("bfloat16", "float16")
REGIONS = Regions((slice(0, 3), slice(5, 12)), (slice(3, 5),))
WHOLE = Regions((slice(0, None),), ())


def drawn(seed: int, length: int = 12, scale: float = 1.0) -> Tensor:
    return torch.from_numpy((np.random.default_rng(seed).standard_normal(length) * scale).astype(np.float32))


def norms(change: Tensor, regions: Regions = REGIONS) -> tuple[float, ...]:
    return tuple(deltas.norm(change, regions=each) for each in regions)


def is_of(change: Tensor, half: Half) -> bool:
    values = change.numpy()
    return np.array_equal(widened(packed(values, to=half)), values)


def test_in_full_a_change_is_clipped_and_nothing_else() -> None:
    change = drawn(1)
    assert Ending(None, None, None).of(change, regions=REGIONS, seed=1) is change
    assert Ending(1e3, 1e3, None).of(change, regions=REGIONS, seed=1) is change
    found = Ending(0.5, 0.25, None).of(change, regions=REGIONS, seed=1)
    assert norms(found) == pytest.approx((0.5, 0.25), rel=1e-6)


@given(st.sampled_from(HALVES), st.integers(0, 2**32), st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_what_is_rounded_is_no_longer_than_it_may_be(half: Half, seed: int, clip: float, clip_buffers: float) -> None:
    found = Ending(clip, clip_buffers, half).of(drawn(seed), regions=REGIONS, seed=seed)
    assert found.dtype == torch.float32
    assert is_of(found, half)
    assert all(norm <= limit for norm, limit in zip(norms(found), (clip, clip_buffers), strict=True))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_clip_it_is_the_rounding_alone(half: Half, dtype: torch.dtype) -> None:
    change = drawn(2).to(dtype)
    found = Ending(None, None, half).of(change, regions=REGIONS, seed=9)
    assert found.dtype == dtype
    assert np.array_equal(found.numpy(), rounded(change.numpy(), to=half, seed=9))


@pytest.mark.parametrize("half", HALVES)
def test_one_that_rounding_makes_too_long_is_cut_towards_zero(half: Half) -> None:
    """A vector of few values may be longer by more than the clip leaves for it; only the regions that are."""
    ending, cut, kept = Ending(0.7, 1.0, half), 0, 0
    change = torch.zeros(12)
    change[0], change[3] = 5.0, 0.37
    plain = Ending(None, None, half)
    clipped = Ending(0.7 * (1 - 2**-12), None, None).of(change, regions=REGIONS, seed=0)
    for seed in range(100):
        found = ending.of(change, regions=REGIONS, seed=seed)
        rough = plain.of(clipped, regions=REGIONS, seed=seed)
        assert torch.equal(found[3:5], rough[3:5])
        if rough[0] > 0.7:
            cut += 1
            assert found[0] < 0.7
        else:
            kept += 1
            assert torch.equal(found, rough)
    assert cut > 0
    assert kept > 0


@pytest.mark.parametrize("half", HALVES)
def test_a_long_vector_at_the_clip_is_rounded_without_bias(half: Half) -> None:
    """Were it cut towards 0, every value would be."""
    change, total = drawn(3, 4096, 0.1), torch.zeros(4096, dtype=torch.float64)
    ending = Ending(1.0, None, half)
    whole = Ending(1 - 2**-12, None, None).of(change, regions=WHOLE, seed=0).double()
    for seed in range(200):
        total += ending.of(change, regions=WHOLE, seed=seed).double()
    longer = float((total / 200) @ whole / (whole @ whole))
    assert longer == pytest.approx(1, abs=2e-4 if half == "bfloat16" else 3e-5)


@pytest.mark.parametrize("half", HALVES)
def test_a_group_ends_as_each_of_it_does(half: Half) -> None:
    changes, ending = torch.stack([drawn(seed) for seed in range(5)]), Ending(2.0, 1.0, half)
    found = ending.of_each(changes, regions=REGIONS, seeds=range(5))
    for seed, (change, each) in enumerate(zip(changes, found, strict=True)):
        alone = ending.of(change, regions=REGIONS, seed=seed)
        assert torch.allclose(each, alone, rtol=2**-7)  # clipped in another order, within rounding
    assert torch.equal(Ending(None, None, None).of_each(changes, regions=REGIONS, seeds=range(5)), changes)


@pytest.mark.parametrize(("half", "value"), [("float16", 65505.0), ("float16", 1e30), ("bfloat16", 3.4e38)])
def test_what_the_type_cannot_hold(half: Half, value: float) -> None:
    change = drawn(4)
    change[7] = value
    with pytest.raises(TrainingError, match=f"a change that {half} cannot hold"):
        Ending(None, None, half).of(change, regions=REGIONS, seed=1)
    assert is_of(Ending(100.0, None, half).of(change, regions=REGIONS, seed=1), half)  # once it is clipped
