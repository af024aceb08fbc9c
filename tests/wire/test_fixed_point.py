"""How many records a round draws at most, against the exact tails of what may be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count, takewhile

import pytest

from cloister.wire.fixed_point import most_drawn

SURE = 1e-14


def beyond(most: int, log_of: Callable[[int], float]) -> float:
    """The probability of more than ``most``: its terms fall from there on, and are added until they do not count."""
    terms = (math.exp(log_of(each)) for each in count(most + 1))
    return math.fsum(takewhile(lambda term: term > 1e-40, terms))


@pytest.mark.parametrize("expected", [1e-3, 0.1, 1, 3, 10, 30, 60, 100, 300, 1000, 30_000, 10**6, 10**8])
def test_more_are_hardly_ever_drawn(expected: float) -> None:
    """A Poisson distribution is what many records come to that are each hardly ever drawn."""
    tail = beyond(most_drawn(expected), lambda k: k * math.log(expected) - expected - math.lgamma(k + 1))
    assert tail < SURE


@pytest.mark.parametrize("rows", [1, 20, 400, 30_000])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_nor_of_a_data_set(rows: int, rate: float) -> None:
    """Where the rate is large, fewer are: the binomial distribution is narrower."""

    def log_of(drawn: int) -> float:
        if drawn > rows:
            return -math.inf
        ways = math.lgamma(rows + 1) - math.lgamma(drawn + 1) - math.lgamma(rows - drawn + 1)
        return ways + drawn * math.log(rate) + (rows - drawn) * math.log1p(-rate)

    assert beyond(most_drawn(rows * rate), log_of) < SURE


def test_it_is_not_far_above_what_is_expected() -> None:
    """A round computes as many: a bound that is always true would cost far more."""
    assert most_drawn(256) == 392
    assert most_drawn(10_000) < 1.1 * 10_000


@pytest.mark.parametrize("expected", [0.3, 7.0, 256.0, 1e5])
def test_no_owner_draws_more_than_all_together(expected: float) -> None:
    """What bounds a contribution is of all owners' rows, and refuses none that is of fewer."""
    assert all(most_drawn(part * expected) <= most_drawn(expected) for part in (0.001, 0.1, 0.5, 0.999, 1.0))
