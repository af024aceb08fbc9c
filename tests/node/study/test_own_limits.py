"""The stricter of two limits counts, whoever set it."""

from __future__ import annotations

import pytest

from cloister.charter.owner_limits import Floors
from cloister.errors import JobError
from cloister.node.study.own_limits import OwnLimits
from tests.support.members import agreed_job, charter

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


def test_a_job_that_takes_longer_than_its_owner_allows() -> None:
    job = agreed_job(max_s=600)
    for floors in (None, Floors(), Floors(max_s=600), Floors(max_s=700)):
        OwnLimits(charter(), floors=floors).check_job(job)
    with pytest.raises(JobError, match=r"gives owners 600 s for a round, and at most 599 s are allowed here.*max_s"):
        OwnLimits(charter(), floors=Floors(max_s=599)).check_job(job)
