"""How often a guess can be right: known values, and all guessers that epsilon and delta allow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.accounting.guessing import most_often_right
from cloister.errors import ConfigurationError


def test_known_values() -> None:
    assert most_often_right(0.0, delta=0.0) == 0.5
    assert most_often_right(math.log(3), delta=0.0) == pytest.approx(0.75)
    assert most_often_right(0.0, delta=0.1) == pytest.approx(0.55)
    assert most_often_right(math.inf, delta=0.0) == 1.0
    assert most_often_right(1e6, delta=1.0) == 1.0


@given(st.floats(0, 8), st.floats(0, 0.5))
def test_no_guesser_is_right_more_often_and_one_is_so_often(epsilon: float, delta: float) -> None:
    """Of its false alarms and its misses, each is bounded by the other: the best of all such pairs."""
    alarms = np.append(np.linspace(0, 1, 1001), (1 - delta) / (1 + math.exp(epsilon)))
    misses = np.maximum(
        0, np.maximum(1 - delta - math.exp(epsilon) * alarms, math.exp(-epsilon) * (1 - delta - alarms))
    )
    best = 1 - (alarms + misses).min() / 2
    assert most_often_right(epsilon, delta=delta) == pytest.approx(best)


@pytest.mark.parametrize(("epsilon", "delta"), [(-0.1, 0.0), (math.nan, 0.0), (1.0, -0.1), (1.0, 1.1), (1.0, math.nan)])
def test_what_makes_no_sense_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigurationError):
        most_often_right(epsilon, delta=delta)
