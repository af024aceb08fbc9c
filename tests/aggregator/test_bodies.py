"""Bodies as they arrive: what is known of a part is not said of the whole."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.aggregator.bodies import Update
from cloister.ledger.records import commitment
from cloister.wire.layout import Regions


def test_a_contribution_has_norms_and_its_commitment_once_all_of_it_was_looked_at() -> None:
    salt, vector = bytes(range(32)), np.full(4, 2.0, np.float32)
    update = Update(vector, salt=salt, regions=Regions((slice(0, 4),)))
    (room,) = update.buffers()
    assert all(map(math.isnan, update.norms))
    update.update(room[:8])
    assert all(map(math.isnan, update.norms))
    assert update.commitment != commitment(salt, memoryview(vector).cast("B"))
    update.update(room[8:])
    assert update.norms == (4.0, 0.0)
    assert update.commitment == commitment(salt, memoryview(vector).cast("B"))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6),
    cuts=st.sets(st.integers(1, 53)),
    seed=st.integers(0, 99),
)
def test_norms_are_of_parameters_and_of_buffers_wherever_parts_are_cut(
    sizes: list[tuple[int, bool]], cuts: set[int], seed: int
) -> None:
    ends = [*accumulate(size for size, _ in sizes)]
    regions = Regions(*(
        tuple(slice(end - size, end) for (size, buffer), end in zip(sizes, ends, strict=True) if buffer is kind)
        for kind in (False, True)
    ))  # fmt: skip
    vector = np.random.default_rng(seed).normal(size=ends[-1]).astype(np.float32)
    update = Update(vector, salt=bytes(32), regions=regions)
    (room,) = update.buffers()
    for first, last in pairwise([0, *sorted(cut for cut in cuts if cut < len(vector)), len(vector)]):
        update.update(room[4 * first : 4 * last])
    wanted = [math.sqrt(sum(float(value) ** 2 for each in some for value in vector[each])) for some in regions]
    assert update.norms == pytest.approx(wanted)
