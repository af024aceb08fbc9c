"""The stricter of two limits counts, whoever set it."""

from __future__ import annotations

import pytest

from cloister.charter.owner_limits import Floors
from cloister.node.study.own_limits import OwnLimits
from tests.support.members import charter

NAMES = ("floor", "min_examples", "largest_share", "clip", "rounds")


@pytest.mark.parametrize(
    ("name", "stricter", "laxer"),
    [("floor", 3, 1), ("min_examples", 999, 1), ("largest_share", 0.1, 1.0), ("clip", 0.01, 1e9), ("rounds", 1, 10**6)],
)
def test_an_owners_limit_counts_where_it_is_stricter(name: str, stricter: float, laxer: float) -> None:
    agreed = charter()
    of_the_charter = OwnLimits(agreed, floors=None)
    assert [getattr(of_the_charter, each) for each in NAMES] == [getattr(agreed.limits, each) for each in NAMES]
    assert getattr(OwnLimits(agreed, floors=Floors(**{name: stricter})), name) == stricter
    assert getattr(OwnLimits(agreed, floors=Floors(**{name: laxer})), name) == getattr(agreed.limits, name)
