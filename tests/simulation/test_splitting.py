"""Splits for experiments: exact, reproducible, and as uneven as they were asked to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import ConfigurationError
from cloister.simulation.splitting import split_by_label, split_dirichlet

LABELS = np.random.default_rng(0).integers(0, 10, 5000)


def shares(labels: np.ndarray[Any, Any], split: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The share of each label at each owner."""
    return np.array([np.bincount(labels[part], minlength=10) / len(part) for part in split])


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    st.integers(1, 6),
    st.sampled_from([1e-9, 0.01, 1.0, 1e6]),
    st.integers(0, 2**32),
)
def test_dirichlet_deals_every_example_once(labels: list[int], owners: int, alpha: float, seed: int) -> None:
    if len(labels) < owners:
        return
    split = split_dirichlet(labels, owners=owners, alpha=alpha, seed=seed)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(labels)))
    sizes = list(map(len, split))
    assert len(sizes) == owners
    assert max(sizes) - min(sizes) <= 1
    assert all(np.all(np.diff(part) > 0) for part in split)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_by_label_deals_every_example_once(labels: list[int], owners: int, labels_each: int, seed: int) -> None:
    if len(labels) < owners * labels_each:
        return
    split = split_by_label(labels, owners=owners, labels_each=labels_each, seed=seed)
    assert sorted(np.concatenate(split).tolist()) == list(range(len(labels)))
    assert len(split) == owners


@pytest.mark.parametrize(
    "deal",
    [
        lambda seed: split_dirichlet(LABELS, owners=20, alpha=0.3, seed=seed),
        lambda seed: split_by_label(LABELS, owners=20, labels_each=2, seed=seed),
    ],
)
def test_a_seed_is_a_split(deal: Any) -> None:
    first, again, other = deal(1), deal(1), deal(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_alpha_says_how_alike_owners_are() -> None:
    whole = np.bincount(LABELS, minlength=10) / len(LABELS)
    distances = [
        np.abs(shares(LABELS, split_dirichlet(LABELS, owners=20, alpha=alpha, seed=5)) - whole).sum(1).mean()
        for alpha in (1e6, 10.0, 1e-3)
    ]
    assert distances[0] < 0.3 < distances[1] < 1.2 < distances[2]


def test_the_mixtures_have_the_published_mean_and_variance() -> None:
    """Labels drawn from a mixture that is drawn from Dir(alpha p): the Dirichlet-multinomial distribution."""
    labels = np.repeat(np.arange(10), 20_000)
    alpha, size = 4.0, 200
    # The first tenth: later owners feel what the earlier ones used up.
    measured = shares(labels, split_dirichlet(labels, owners=len(labels) // size, alpha=alpha, seed=1)[:100])
    p = 0.1
    variance = p * (1 - p) * (1 / (alpha + 1) + alpha / (alpha + 1) / size)
    assert measured.mean() == pytest.approx(p)
    assert measured.var() == pytest.approx(variance, rel=0.15)


def test_few_labels_each() -> None:
    labels = np.repeat(np.arange(10), 600)[np.random.default_rng(2).permutation(6000)]
    split = split_by_label(labels, owners=100, labels_each=2, seed=0)  # McMahan et al.: 200 shards; here of 30
    assert {len(part) for part in split} == {60}
    assert max(len(np.unique(labels[part])) for part in split) == 2


def test_labels_may_be_anything_that_sorts() -> None:
    split = split_dirichlet(np.array(["cat", "dog"] * 10), owners=2, alpha=0.5, seed=0)
    assert sum(map(len, split)) == 20


@pytest.mark.parametrize(
    "deal",
    [
        lambda: split_dirichlet([], owners=1, alpha=1.0, seed=0),
        lambda: split_dirichlet([[1], [2]], owners=1, alpha=1.0, seed=0),
        lambda: split_dirichlet([1, 2], owners=3, alpha=1.0, seed=0),
        lambda: split_dirichlet([1, 2], owners=0, alpha=1.0, seed=0),
        lambda: split_dirichlet([1, 2, 3], owners=2, alpha=1.0, seed=0, smallest=2),
        lambda: split_dirichlet([1, 2], owners=1, alpha=0.0, seed=0),
        lambda: split_dirichlet([1, 2], owners=1, alpha=float("nan"), seed=0),
        lambda: split_by_label([1, 2, 3], owners=2, labels_each=2, seed=0),
        lambda: split_by_label([1, 2, 3], owners=2, labels_each=0, seed=0),
        lambda: split_by_label([1, 2, 3], owners=2, labels_each=1, seed=0, smallest=2),
    ],
)
def test_splits_that_cannot_be(deal: Any) -> None:
    with pytest.raises(ConfigurationError):
        deal()
