"""Proposals keep the epsilon that is wanted, with the least noise that does."""

from __future__ import annotations

import math

import dp_accounting.pld  # noqa: F401  what is tested loads it when it is first asked, which takes a second
import pytest

from cloister.accounting.accountant import Spent, epsilon
from cloister.accounting.proposals import LEAST, RATES, ROUNDS, STEP, Proposal, plan_for
from cloister.errors import ConfigurationError

DELTA = 1e-5


def spent(proposal: Proposal, *, less: float = 0.0) -> float:
    used = Spent(proposal.multiplier - less, proposal.rate, proposal.rounds)
    return epsilon([used], delta=DELTA)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.3, 2.0, 8.0])
def test_a_proposal_keeps_the_epsilon_and_a_little_less_noise_would_not(wanted: float) -> None:
    found = plan_for(wanted, delta=DELTA, rows=1368)
    assert {(each.rate, each.rounds) for each in found} == {(rate, count) for rate in RATES for count in ROUNDS}
    assert any(each.multiplier > LEAST for each in found)
    for each in found:
        assert each.epsilon == spent(each) <= wanted
        assert each.multiplier == LEAST or (each.multiplier > LEAST and spent(each, less=STEP) > wanted)


@pytest.mark.slow
def test_the_least_noise_comes_first_and_is_over_the_rows_of_a_round() -> None:
    found = plan_for(2.0, delta=DELTA, rows=1000)
    assert [each.noise for each in found] == sorted(each.noise for each in found)
    assert all(each.noise == pytest.approx(each.multiplier / (each.rate * 1000)) for each in found)


@pytest.mark.slow
def test_the_least_multiplier_is_the_callers() -> None:
    def multiplier(least: float) -> float:
        [found] = plan_for(3.0, delta=DELTA, rows=100, rates=[0.2], rounds=[60], least_multiplier=least)
        assert spent(found) <= 3.0
        return found.multiplier

    assert multiplier(1.75) == multiplier(2.0) == pytest.approx(2.45, abs=0.1)
    assert multiplier(4.0) == 4.0


def test_what_no_noise_keeps_is_left_out() -> None:
    found = plan_for(1e-6, delta=1e-9, rows=100, rates=[1e-6, 1.0], rounds=[1])
    assert [each.rate for each in found] == [1e-6]


@pytest.mark.parametrize("wanted", [0.0, -1.0, math.nan, math.inf])
def test_an_epsilon_is_a_number_over_0(wanted: float) -> None:
    with pytest.raises(ConfigurationError, match="wanted epsilon"):
        plan_for(wanted, delta=DELTA, rows=100)


def test_there_is_a_row_and_a_round() -> None:
    with pytest.raises(ConfigurationError, match="one row and one round"):
        plan_for(1.0, delta=DELTA, rows=0)
    with pytest.raises(ConfigurationError, match="one row and one round"):
        plan_for(1.0, delta=DELTA, rows=10, rounds=[0])
