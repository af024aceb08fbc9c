"""Integers that follow the batch size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.tensor.plan.batch import SIZES, at, fit
from cloister.tensor.plan.program import Affine

NUMBERS = st.integers(-(1 << 40), 1 << 40)


@given(NUMBERS, NUMBERS, st.integers(1, 1 << 20))
def test_what_is_affine_is_found_and_holds_for_every_size(per: int, plus: int, size: int) -> None:
    found = fit([per * each + plus for each in SIZES])
    assert found == (Affine(per, plus) if per else plus)
    assert at(found, size) == per * size + plus


@pytest.mark.parametrize(
    "follows",
    [
        lambda b: b // 2,
        lambda b: b % 2,
        lambda b: b * b,
        lambda b: -(-b // 4),
        lambda b: min(b, 10),
        lambda b: max(b, 6),
        lambda b: b.bit_length(),
    ],
)
def test_what_is_not_is_not(follows) -> None:  # type: ignore[no-untyped-def]
    assert fit([follows(size) for size in SIZES]) is None


def test_symbols_in_lists_and_in_print() -> None:
    assert at((1, Affine(2, -1), None), 5) == (1, 9, None)
    assert at((1, 2), 5) == (1, 2)
    assert at(0.5, 5) == 0.5
    assert [str(Affine(1, 0)), str(Affine(-1, 2)), str(Affine(9, -3))] == ["b", "-b + 2", "9*b - 3"]
