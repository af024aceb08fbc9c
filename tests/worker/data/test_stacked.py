"""Data sets dealt out together: every owner's rows in the order in which it has them alone."""

from __future__ import annotations

import pytest
import torch

from cloister.worker.data.batches import order, orders
from cloister.worker.data.rows import Arrays
from cloister.worker.data.stacked import Stack

SEEDS = [3, 0, 2**64 - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint16, torch.bool, torch.complex64])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
def test_each_owner_has_its_own_order(dtype: torch.dtype, batch_size: int) -> None:
    data = [Arrays({"n": torch.arange(11) + 100 * at, "x": torch.arange(22).view(11, 2).to(dtype)}) for at in range(3)]
    together = list(Stack(data, device=torch.device("cpu")).epoch(batch_size, seeds=SEEDS, step=7))
    for at, (each, seed) in enumerate(zip(data, SEEDS, strict=True)):
        alone = list(each.epoch(batch_size, seed=seed, step=7))
        assert len(alone) == len(together)
        for one, all_of_them in zip(alone, together, strict=True):
            assert all(torch.equal(a, b[at]) for a, b in zip(one, all_of_them, strict=True))


def test_orders_are_those_of_each_seed() -> None:
    found = orders(50, seeds=SEEDS, step=9)
    assert [row.tolist() for row in found] == [order(50, seed=seed, step=9).tolist() for seed in SEEDS]
    assert len({tuple(row) for row in found}) == 3


def mixed(z: int) -> int:
    """The output function of SplitMix64, with Python's integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (1, 3), (2**64 - 1, 2**64 - 1)])
def test_orders_are_as_they_are_described(seed: int, step: int) -> None:
    """They are part of what a seed means, on every machine and with every version of NumPy."""
    state = mixed((seed + mixed(step)) % 2**64)
    keys = [mixed((state + (row + 1) * 0x9E3779B97F4A7C15) % 2**64) // 128 for row in range(100)]
    assert order(100, seed=seed, step=step).tolist() == sorted(range(100), key=keys.__getitem__)
    assert order(10, seed=1, step=0).tolist() == [7, 4, 8, 1, 2, 6, 5, 0, 9, 3]


@pytest.mark.slow
def test_every_row_is_as_likely_anywhere() -> None:
    """10,000 orders of 5 rows: each row stands in each place about 2,000 times (standard deviation 40)."""
    found = torch.from_numpy(orders(5, seeds=range(10_000), step=0))
    for place in range(5):
        assert (found[:, place].bincount(minlength=5) - 2000).abs().max() < 200
    assert len({tuple(row) for row in found.tolist()}) == 120


def test_blocks_of_keys_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = order(1000, seed=5, step=5).tolist()
    monkeypatch.setattr("cloister.worker.data.batches._BLOCK", 64)
    assert order(1000, seed=5, step=5).tolist() == whole
