"""Vectors in NumPy: the layout written out by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.aggregation.vectors import BLOCK, check
from cloister.errors import AggregationError


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found_anywhere(place: int, value: float) -> None:
    vector = np.zeros(2 * BLOCK + 1, np.float32)
    check(vector, length=len(vector), what="it")
    vector[place] = value
    with pytest.raises(AggregationError, match="it holds a value that is not finite"):
        check(vector, length=len(vector), what="it")
