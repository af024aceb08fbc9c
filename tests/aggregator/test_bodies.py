"""Bodies as they arrive: what is known of a part is not said of the whole."""

from __future__ import annotations

import math

import numpy as np

from cloister.aggregator.bodies import Update
from cloister.ledger.records import commitment


def test_a_contribution_has_a_norm_and_its_commitment_once_all_of_it_was_looked_at() -> None:
    salt, vector = bytes(range(32)), np.full(4, 2.0, np.float32)
    update = Update(vector, salt=salt)
    (room,) = update.buffers()
    assert math.isnan(update.norm)
    update.update(room[:8])
    assert math.isnan(update.norm)
    assert update.commitment != commitment(salt, memoryview(vector).cast("B"))
    update.update(room[8:])
    assert update.norm == 4.0
    assert update.commitment == commitment(salt, memoryview(vector).cast("B"))
