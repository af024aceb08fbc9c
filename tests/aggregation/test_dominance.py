"""None counts for more than the ``floor``-th largest."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.aggregation.dominance import bound_of, scales_of

PARAMETERS: Final = (slice(0, 2), slice(4, 6))
BUFFERS: Final = (slice(2, 4),)


@pytest.mark.parametrize(
    ("norms", "floor", "clip", "bound"),
    [
        ([9.0, 1.0, 2.0, 3.0], 3, None, 2.0),
        ([9.0, 1.0, 2.0, 3.0], 2, None, 3.0),
        ([9.0, 9.0, 1.0], 3, None, 1.0),
        ([9.0, 1.0, 2.0, 3.0], 3, 1.5, 1.5),
        ([9.0, 1.0, 2.0, 3.0], 3, 5.0, 2.0),
    ],
)
def test_the_bound_is_the_floor_th_largest_or_the_clip(
    norms: list[float], floor: int, clip: float | None, bound: float
) -> None:
    assert bound_of(norms, floor=floor, clip=clip) == bound


def test_what_is_longer_is_scaled_down_parameters_and_buffers_apart() -> None:
    found = scales_of((4.0, 1.0), bounds=(1.0, 3.0), regions=(PARAMETERS, BUFFERS))
    assert found == [(slice(0, 2), 0.25), (slice(2, 4), 1.0), (slice(4, 6), 0.25)]
    assert scales_of((4.0, 6.0), bounds=(8.0, 3.0), regions=(PARAMETERS, BUFFERS))[1] == (slice(2, 4), 0.5)


lengths = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=9)


@given(lengths, st.integers(2, 3))
def test_at_least_floor_are_as_long_as_the_longest_afterwards(norms: list[float], floor: int) -> None:
    bound = bound_of(norms, floor=floor, clip=None)
    after = [norm * scales_of((norm,), bounds=(bound,), regions=(PARAMETERS,))[0][1] for norm in norms]
    assert sum(each == pytest.approx(max(after)) for each in after) >= floor
    assert all(one <= two * (1 + 1e-9) for one, two in zip(after, norms, strict=True))
