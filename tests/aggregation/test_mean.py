"""Weighted means and capped shares."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.aggregation.group_mean import GroupSum
from cloister.aggregation.mean import Sum, shares
from cloister.errors import AggregationError
from tests.aggregation.means import Contribution, mean

counts = st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), min_size=1, max_size=12)


def contributions(examples: dict[str, int], length: int = 6, seed: int = 0) -> dict[str, Contribution]:
    generator = np.random.default_rng(seed)
    return {name: Contribution(generator.normal(size=length).astype(np.float32), n) for name, n in examples.items()}


@given(counts, st.integers(0, 2**32))
def test_the_order_of_the_members_changes_no_bit(examples: dict[str, int], seed: int) -> None:
    given_ = contributions(examples, seed=seed)
    names = list(given_)
    random.Random(seed).shuffle(names)
    assert mean({name: given_[name] for name in names}).tobytes() == mean(given_).tobytes()


@given(counts)
def test_it_is_the_weighted_mean(examples: dict[str, int]) -> None:
    given_ = contributions(examples)
    total = sum(examples.values())
    wanted = [float(sum(Fraction(n, total) * Fraction(float(u[i])) for u, n in given_.values())) for i in range(6)]
    np.testing.assert_allclose(mean(given_), wanted, rtol=1e-12, atol=1e-14)


def test_equal_members_give_the_plain_mean() -> None:
    given_ = contributions(dict.fromkeys("abcde", 17))
    plain = np.mean([u for u, _ in given_.values()], axis=0, dtype=np.float64)
    np.testing.assert_allclose(mean(given_), plain, rtol=1e-14)


def test_float32_updates_are_added_in_float64() -> None:
    total = Sum(1)
    for value in (1e8, 1.0, -1e8):
        total.add(np.full(1, value, np.float32), weight=1.0)
    assert len(total) == 3
    assert total.mean()[0] == pytest.approx(1 / 3)
    assert len(total) == 0


def test_a_vector_longer_than_a_block() -> None:
    update = np.random.default_rng(0).normal(size=600_001)
    total = Sum(len(update))
    total.add(update, weight=2.0)
    total.add(-update[::-1], weight=2.0)
    np.testing.assert_allclose(total.mean(), (update - update[::-1]) / 2, rtol=1e-15)


def water_filling(examples: dict[str, int], limit: Fraction) -> dict[str, Fraction]:
    """The rule as it is told: cap those over the limit, deal out the rest in proportion, again until none is over."""
    capped: set[str] = set()
    while True:
        rest = sum(n for name, n in examples.items() if name not in capped)
        mass = 1 - limit * len(capped)
        now = {name: limit if name in capped else mass * n / rest for name, n in examples.items()}
        over = {name for name, share in now.items() if share > limit}
        if not over:
            return now
        capped |= over


@given(counts, st.floats(0.01, 1))
def test_capped_shares(examples: dict[str, int], limit: float) -> None:
    if 1 / len(examples) > limit:
        with pytest.raises(AggregationError, match="cannot each be at most"):
            shares(examples, largest_share=limit)
        return
    given_ = shares(examples, largest_share=limit)
    assert list(given_) == list(examples)
    assert math.fsum(given_.values()) == pytest.approx(1, abs=1e-12)
    assert max(given_.values()) <= limit
    ordered = [given_[name] for name in sorted(examples, key=examples.__getitem__)]
    assert ordered == sorted(ordered)
    if len(examples) * Fraction(limit) >= 1:
        assert given_ == {name: float(share) for name, share in water_filling(examples, Fraction(limit)).items()}


@pytest.mark.parametrize("members", [1, 3, 7, 49])
def test_a_limit_that_just_fits(members: int) -> None:
    limit = 1 / members
    given_ = shares({str(n): n + 1 for n in range(members)}, largest_share=limit)
    assert set(given_.values()) == {limit}


def test_capping_one_lifts_another_over_the_limit() -> None:
    assert shares({"a": 80, "b": 15, "c": 5}, largest_share=0.4) == {"a": 0.4, "b": 0.4, "c": pytest.approx(0.2)}


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({}, "no contributions"),
        ({"a": Contribution(np.zeros(2), 0)}, "a counts 0 examples"),
        ({"a": Contribution(np.zeros(2), True)}, "a counts True examples"),
        ({"a": Contribution(np.zeros(2), 1), "b": Contribution(np.zeros(3), 1)}, "contribution of b has 3 values"),
        ({"a": Contribution(np.array([0, np.nan]), 1)}, "contribution of a holds a value that is not finite"),
        ({"a": Contribution(np.array([-np.inf]), 1)}, "contribution of a holds a value that is not finite"),
        ({"a": Contribution(np.zeros((2, 2)), 1)}, "contribution of a is not a flat vector"),
        ({"a": Contribution(np.zeros(2, complex), 1)}, "contribution of a is not a flat vector"),
        ({"a": Contribution(np.full(1, 1e308), 1), "b": Contribution(np.full(1, 1e308), 1)}, None),
    ],
)
def test_contributions_that_cannot_be_added(given_: Any, text: str | None) -> None:
    if text is None:
        assert mean(given_)[0] == 1e308  # shares come before sums, so this does not overflow
        return
    with pytest.raises(AggregationError, match=text):
        mean(given_)


def test_a_refused_contribution_adds_nothing() -> None:
    total = Sum(2)
    total.add(np.ones(2), weight=1.0)
    for update, weight in ((np.array([1, np.nan]), 1.0), (np.ones(3), 1.0), (np.ones(2), 0.0), (np.ones(2), math.inf)):
        with pytest.raises(AggregationError):
            total.add(update, weight=weight)
    assert len(total) == 1
    assert np.array_equal(total.mean(), np.ones(2))


def test_many_at_once_are_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    weights = [1.0, 0.5, 3.0, 1e-3, 2.0, 7.0, 0.1]
    one, many, narrow = Sum(11), GroupSum(11), GroupSum(11)
    for update, weight in zip(updates, weights, strict=True):
        one.add(update, weight=weight)
    many.add_all(updates[:4], weights=weights[:4], what="the first")
    many.add_all(updates[4:], weights=weights[4:], what="the others")
    assert len(many) == 7
    mean = one.mean()
    np.testing.assert_allclose(many.mean(), mean, rtol=1e-12, atol=1e-15)
    monkeypatch.setattr("cloister.aggregation.group_mean._TOGETHER", 14)
    narrow.add_all(updates, weights=weights, what="all")
    np.testing.assert_allclose(narrow.mean(), mean, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("updates", "weights", "text"),
    [
        (np.ones((2, 3)), [1.0], "for 1 weights"),
        (np.ones((2, 4)), [1.0, 1.0], "the shape"),
        (np.ones(3), [1.0], "the shape"),
        (np.ones((2, 3)), [1.0, 0.0], "no positive number"),
        (np.ones((2, 3)), [1.0, math.nan], "no positive number"),
        (np.array([[1.0, 2.0, math.nan], [1.0, 2.0, 3.0]]), [1.0, 1.0], "not finite"),
        (np.array([[1.0, 2.0, math.inf], [1.0, 2.0, -math.inf]]), [1.0, 1.0], "not finite"),
    ],
)
def test_many_that_cannot_be_added_add_nothing(updates: Any, weights: list[float], text: str) -> None:
    total = GroupSum(3)
    with pytest.raises(AggregationError, match=text):
        total.add_all(updates, weights=weights, what="they")
    assert len(total) == 0
    total.add(np.ones(3), weight=2.0)
    assert total.mean().tolist() == [1.0] * 3


def test_an_empty_sum_and_one_that_overflows_have_no_mean() -> None:
    with pytest.raises(AggregationError, match="no contributions"):
        Sum(2).mean()
    total = Sum(1)
    for _ in range(2):
        total.add(np.full(1, 1e308), weight=1.0)
    with pytest.raises(AggregationError, match="mean of the contributions"):
        total.mean()


@pytest.mark.parametrize("limit", [0.0, -1.0, 1.5, math.nan])
def test_limits_that_are_none(limit: float) -> None:
    with pytest.raises(AggregationError, match="largest share"):
        shares({"a": 1}, largest_share=limit)


def test_values_are_not_looked_at_again_where_the_norm_is_known() -> None:
    total = Sum(2)
    total.add(np.array([3.0, 4.0]), weight=1.0, norm=5.0)
    for norm in (None, np.nan, np.inf):
        with pytest.raises(AggregationError, match="not finite"):
            total.add(np.array([1.0, np.inf]), weight=1.0, norm=norm)
    assert total.mean().tolist() == [3.0, 4.0]
