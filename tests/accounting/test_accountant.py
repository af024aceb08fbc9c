"""The epsilon of noise: against closed forms, against two other libraries, and the laws that it keeps."""

from __future__ import annotations

import math
import random
import sys
import warnings

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st

from cloister.accounting import accountant
from cloister.accounting.accountant import MOST_ROUNDS, Spent, epsilon
from cloister.errors import ConfigurationError, MissingDependencyError

DELTA = 1e-5
A_STEP = 0.003
"""What two grids may differ by, as a part of epsilon."""

SETTINGS = [  # multiplier, rate, rounds, and a grid of dp-accounting's that is fine enough
    (0.5, 0.001, 1000, 1e-4),
    (0.5, 0.05, 60, 1e-4),
    (0.8, 0.01, 1000, 1e-4),
    (1.0, 0.01, 10_000, 1e-4),
    (1.0, 0.2, 1, 1e-4),
    (2.0, 0.2, 60, 1e-4),
    (3.0, 0.5, 200, 1e-4),
    (4.0, 0.05, 1000, 1e-4),
    (2.0, 0.001, 10_000, 1e-5),
    (8.0, 0.01, 10_000, 1e-5),
    (8.0, 1.0, 1000, 1e-3),
    (8.0, 1.0, 1, 1e-4),
]

spent = st.builds(Spent, st.floats(1, 20), st.floats(0.01, 1), st.integers(1, 2000))
factors = st.floats(1, 2)


def normal_above(x: float) -> float:
    """The probability of a standard normal number above ``x``."""
    return math.erfc(x / math.sqrt(2)) / 2


def exact_delta(epsilon: float, mu: float) -> float:
    """The delta of a Gaussian mechanism whose sensitivity is ``mu`` deviations: Balle & Wang (2018), Theorem 8."""
    return normal_above(epsilon / mu - mu / 2) - math.exp(epsilon) * normal_above(epsilon / mu + mu / 2)


@pytest.mark.slow
@pytest.mark.parametrize(("multiplier", "rate", "count", "grid"), SETTINGS)
def test_it_is_what_dp_accounting_says_itself(multiplier: float, rate: float, count: int, grid: float) -> None:
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    other = PLDAccountant(value_discretization_interval=grid)
    other.compose(event, count)
    expected = other.get_epsilon(DELTA)
    assert expected * 0.9999 <= epsilon([Spent(multiplier, rate, count)], delta=DELTA) <= expected * 1.01


@pytest.mark.slow
@pytest.mark.parametrize(("multiplier", "rate", "count", "grid"), SETTINGS)
def test_it_is_what_opacus_says(multiplier: float, rate: float, count: int, grid: float) -> None:
    """By its accountant of S. Gopi, Y. T. Lee and L. Wutschitz (2021), which has nothing in common with this one."""
    from opacus.accountants import PRVAccountant

    found = epsilon([Spent(multiplier, rate, count)], delta=DELTA)
    other = PRVAccountant()
    other.history = [(multiplier, rate, count)]
    with warnings.catch_warnings(action="ignore"):  # a logarithm of 0 that has no weight; how wide it looks first
        assert other.get_epsilon(DELTA, eps_error=found / 400) == pytest.approx(found, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize(
    "used", [[(1.0, 1)], [(8.0, 1000)], [(0.5, 1)], [(100.0, 50)], [(2.0, 3), (5.0, 100), (3.0, 9)]]
)
def test_without_sampling_it_has_a_closed_form(used: list[tuple[float, int]], delta: float) -> None:
    found = epsilon([Spent(multiplier, 1.0, count) for multiplier, count in used], delta=delta)
    mu = math.sqrt(sum(count / multiplier**2 for multiplier, count in used))
    assert exact_delta(found, mu) <= delta < exact_delta(found * 0.99, mu)


@pytest.mark.parametrize("rate", [1.0, 0.2, 0.001])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0, 8.0])
def test_a_discrete_gaussian_hides_what_one_with_a_little_less_noise_hides(multiplier: float, rate: float) -> None:
    """The deltas of one round, for a record less: by sums over the grid, and by the closed form of what is counted."""
    deviation = 1024
    step = int(deviation / multiplier)
    places = np.arange(-12 * deviation, 12 * deviation + step)
    weights = np.exp(-((places / deviation) ** 2) / 2)
    weights /= weights.sum()
    counted = multiplier * accountant._ROUNDED
    for eps in (0.0, 0.1, 0.5, 2.0, 5.0):
        more = math.expm1(eps) + rate
        edge = step / 2 + deviation**2 / step * math.log(more / rate)  # the ratio is over e^eps above it
        discrete = rate * weights[places + step > edge].sum() - more * weights[places > edge].sum()
        at = deviation / step * math.log(more / rate)
        continuous = rate * normal_above(at - 0.5 / counted) - more * normal_above(at + 0.5 / counted)
        assert discrete <= continuous + 1e-15
        assert discrete == pytest.approx(continuous, rel=1e-3, abs=1e-14)


def test_rounds_of_one_kind_and_of_several_add_up() -> None:
    one, other = Spent(2.0, 0.2, 30), Spent(3.0, 0.3, 30)
    twice = epsilon([one, one], delta=DELTA)
    assert twice == epsilon([Spent(2.0, 0.2, 60)], delta=DELTA) == pytest.approx(3.832, rel=1e-3)
    together = epsilon([one, other], delta=DELTA)
    assert together == epsilon([other, one], delta=DELTA)
    assert max(epsilon([one], delta=DELTA), epsilon([other], delta=DELTA)) * 1.2 < together < twice * 1.2


# Laws


@pytest.mark.slow
@given(st.lists(spent, max_size=3), st.randoms())
def test_neither_order_nor_grouping_matters(used: list[Spent], chance: random.Random) -> None:
    """To the bit, so that all who count the same say the same."""
    halves = [
        Spent(each.multiplier, each.rate, count)
        for each in used
        for count in (each.rounds // 2, each.rounds - each.rounds // 2)
    ]
    chance.shuffle(halves)
    accountant._epsilon.cache_clear()
    first = epsilon(used, delta=DELTA)
    accountant._epsilon.cache_clear()
    assert epsilon(halves, delta=DELTA) == first


@pytest.mark.slow
@given(spent, factors, st.sampled_from([1e-3, 1e-5, 1e-8]))
def test_more_noise_fewer_records_and_fewer_rounds_have_less_epsilon(used: Spent, factor: float, delta: float) -> None:
    most = epsilon([used], delta=delta) * (1 + 1e-6) + 1e-9  # sums of 10^5 roundings
    for less in (
        Spent(used.multiplier * factor, used.rate, used.rounds),
        Spent(used.multiplier, used.rate / factor, used.rounds),
        Spent(used.multiplier, used.rate, math.ceil(used.rounds / factor)),
    ):
        assert epsilon([less], delta=delta) <= most


@pytest.mark.slow
@given(st.lists(spent, min_size=2, max_size=3))
def test_all_together_have_more_than_each(used: list[Spent]) -> None:
    together = epsilon(used, delta=DELTA)
    assert together >= max(epsilon([each], delta=DELTA) for each in used) * (1 - A_STEP)


@pytest.mark.slow
@given(st.lists(spent, min_size=1, max_size=2))
def test_a_grid_adds_and_adds_little(used: list[Spent]) -> None:
    found = epsilon(used, delta=DELTA)
    coarse = accountant._grid
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accountant, "_grid", lambda settings: coarse(settings) / 4)
        accountant._epsilon.cache_clear()
        finer = epsilon(used, delta=DELTA)
    accountant._epsilon.cache_clear()
    assert finer * (1 - 1e-6) - 1e-9 <= found <= finer * (1 + A_STEP) + 1e-5


# Where it ends


def test_nothing_costs_nothing() -> None:
    assert epsilon([], delta=DELTA) == 0
    assert epsilon([Spent(1e-9, 1.0, 0)], delta=DELTA) == 0


def test_noise_that_hides_nothing_is_infinite() -> None:
    for multiplier in (5e-324, 1e-9, 0.009):
        assert epsilon([Spent(multiplier, 0.1, 1), Spent(4.0, 0.1, 1)], delta=DELTA) == math.inf
    assert epsilon([Spent(0.5, 1.0, 10_000)], delta=DELTA) == math.inf
    assert 300 < epsilon([Spent(0.2, 0.2, 60)], delta=DELTA) < 320


def test_a_delta_that_rounding_may_hide_is_infinite() -> None:
    assert epsilon([Spent(4.0, 0.1, 1)], delta=1e-13) == math.inf
    assert epsilon([Spent(4.0, 0.1, 10_000)], delta=1e-11) == math.inf
    assert epsilon([Spent(4.0, 0.1, 100)], delta=1e-11) < 10


@pytest.mark.slow
@pytest.mark.parametrize("delta", [1e-11, 0.999])
@pytest.mark.parametrize(
    "used",
    [
        Spent(0.01, 1e-300, 1),
        Spent(0.01, 0.999, 1),
        Spent(0.1, 1 - 1e-16, 30),
        Spent(0.2, 0.2, 1000),
        Spent(1.0, 0.999, 1000),  # an epsilon about 710, whose exponential no float holds
        Spent(1.0, 1e-9, MOST_ROUNDS),
        Spent(1e300, 0.2, 1000),
    ],
)
def test_it_is_a_number_or_infinite_whatever_is_asked(used: Spent, delta: float) -> None:
    assert epsilon([used], delta=delta) >= 0


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf])
def test_a_multiplier_is_a_number_over_0(number: float) -> None:
    with pytest.raises(ConfigurationError, match="noise multiplier"):
        Spent(number, 0.5, 1)


@pytest.mark.parametrize("number", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_is_a_probability(number: float) -> None:
    with pytest.raises(ConfigurationError, match="sampling rate"):
        Spent(2.0, number, 1)


@pytest.mark.parametrize("number", [-1, MOST_ROUNDS + 1])
def test_rounds_are_counted_up_to_a_bound(number: int) -> None:
    with pytest.raises(ConfigurationError, match="rounds"):
        Spent(2.0, 0.5, number)


@pytest.mark.parametrize("number", [0.0, 1.0, -1.0, math.nan])
def test_a_delta_is_between_0_and_1(number: float) -> None:
    with pytest.raises(ConfigurationError, match="delta"):
        epsilon([], delta=number)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    accountant._epsilon.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"pip install 'cloister\[noise\]'"):
        epsilon([Spent(2.0, 0.5, 1)], delta=DELTA)
