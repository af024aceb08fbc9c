"""Attack: send the longest sum that there can be, to uncover the others' or to carry the model away.

Nothing of the others' sums or of the noise depends on it: whoever subtracts its own part has the rest as it would have
been, to the last unit. And it moves the model by no more than all records that the job is for can.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister.aggregator.bodies import Update
from cloister.errors import RoundError
from cloister.wire.fixed_point import UNITS, most_drawn
from tests.attacks.noticing import CLIP, LAYOUT, LR, REGIONS, ROWS, TRIED, Noisy

STUDY = Noisy("record", multiplier=2.0, rate=0.25, rounds=1)
SCALE = CLIP / UNITS * LR / ROWS
LONGEST = most_drawn(ROWS) * UNITS
HONEST = np.random.default_rng(3).integers(-3 * UNITS, 3 * UNITS, (2, TRIED), np.int32)


def one(value: int) -> NDArray[np.int32]:
    return np.array([value, *[0] * (TRIED - 1)], np.int32)


def mean(*sums: NDArray[np.int32]) -> NDArray[np.float64]:
    """What comes of a round, to which only such sums are added as are taken."""
    weighing = STUDY.weighing(LAYOUT, seed=1, number=1)
    weighing.begin()
    for each in sums:
        update = Update(each.copy(), salt=b"", regions=REGIONS)
        update.update(memoryview(each).cast("B"))
        weighing.check(STUDY.answer(0.0), update)
        weighing.add("somebody", STUDY.answer(0.0), update)
    return weighing.mean()


@pytest.mark.parametrize("value", [LONGEST, -LONGEST, 1])
def test_what_is_left_of_it_without_its_own_part_is_what_it_would_have_been(value: int) -> None:
    without, with_it = mean(*HONEST), mean(*HONEST, one(value))
    assert np.rint(with_it / SCALE).astype(np.int64).tolist() == (np.rint(without / SCALE) + one(value)).tolist()


@pytest.mark.parametrize("value", [LONGEST + 1, 2**31 - 1, -(2**31)])
def test_what_is_longer_than_all_records_is_refused(value: int) -> None:
    with pytest.raises(RoundError, match="longer than the sum over all records"):
        mean(*HONEST, one(value))
    with pytest.raises(RoundError, match="longer than the sum over all records"):
        mean(np.full(TRIED, value, np.int64).astype(np.int32))


def test_it_moves_the_model_by_no_more_than_all_records_can() -> None:
    moved = np.linalg.norm(mean(*HONEST, one(LONGEST)) - mean(*HONEST))
    assert moved == pytest.approx(LR * CLIP * most_drawn(ROWS) / ROWS)
