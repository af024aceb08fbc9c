"""One plan for every batch size: integers that follow it, found from captures at three sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cloister.tensor.plan.program import Affine

SIZES: Final = (5, 8, 13)
"""The batch sizes of the three captures. They differ modulo 2, 3, 5 and 7, so that what depends on the batch size by
halves, remainders or comparisons shows."""


def fit(values: Sequence[int]) -> int | Affine | None:
    """The integer, fixed or affine in the batch, that has these values at ``SIZES``; None if there is none."""
    first, second, third = values
    if first == second == third:
        return first
    per, rest = divmod(second - first, SIZES[1] - SIZES[0])
    if rest or third - first != per * (SIZES[2] - SIZES[0]):
        return None
    return Affine(per, first - per * SIZES[0])


def at(value: Any, size: int) -> Any:
    """``value`` for a batch of ``size``: symbols become integers, also those in a list."""
    if type(value) is Affine:
        return value.per * size + value.plus
    if type(value) is tuple and any(type(item) is Affine for item in value):
        return tuple(at(item, size) for item in value)
    return value
