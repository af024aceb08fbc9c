"""Attack: have an owner draw the same rows twice, so that two noisy sums of the same records can be averaged.

Draws come from the data set's secret, the job and the round's number, and whoever runs the aggregator chooses numbers,
instances and moments. But a number is answered once: also after a restart, for a clone, where a round came to nothing,
or under a successor charter. What one draw for several rounds would tell is in ``test_one_record_is_noticed.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.charter import Charter
from cloister.charter.jobs import Sampling
from cloister.node.study.effects import Train
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from tests.support.members import Aggregator, agreed_job, charter, declined, only, owner
from tests.support.owners import RECORD


def drawing(serial: int = 1) -> Charter:
    """A charter whose noise hides records, or its successor."""
    job = agreed_job(weights="uniform", steps=1, optimizer=SGD(0.5), sampling=Sampling(rate=0.25, rows=10))
    before = None if serial == 1 else bytes(31) + bytes([serial - 1])
    return charter(jobs=[job], noise=RECORD, row_buckets="[]", limits="", serial=serial, supersedes=before)


def facing(notes: Records, *, serial: int = 1, instance: str = "first") -> Aggregator:
    return Aggregator.facing(owner(notes=notes, agreed=drawing(serial)), instance=instance)


def key(order: Train) -> bytes:
    assert order.draw is not None
    return order.draw.key


def contributed(here: Aggregator, number: int) -> bytes:
    """The key of a contribution that the owner has ready."""
    found = key(here.propose(number))
    only(here.member.trained(number, bytes(16), examples=23, norms=(0.0, 0.0), metrics={}), w.Ready)
    return found


def refused(here: Aggregator, number: int) -> str:
    return declined(here.member.handle(here.proposal(number)))


@pytest.mark.slow
def test_no_two_contributions_are_of_one_draw(tmp_path: Path) -> None:
    notes = Records(tmp_path)
    first = facing(notes)
    keys = [contributed(first, 3)]
    for number in (1, 2, 3):
        assert "a number is used once" in refused(first, number)
    first.member.handle(w.Over(3, "it is void, really"))
    clone = facing(notes, instance="clone")
    assert "a number is used once" in refused(clone, 3)
    keys.append(contributed(clone, 4))
    notes.close()

    notes = Records(tmp_path)
    again = facing(notes, instance="again")
    for number in (3, 4):
        assert "a number is used once" in refused(again, number)
    again.round(5)
    keys += [contributed(again, 6), contributed(facing(notes, serial=2), 3)]
    assert len(notes.salt("#mri") or b"") == 32
    notes.close()
    assert len(set(keys)) == len(keys) == 4


def test_a_draw_that_was_begun_twice_is_contributed_once() -> None:
    """The aggregator goes away while the owner computes, and comes back with the same number and another model."""
    notes = Records(None)
    first, second = facing(notes), facing(notes, instance="second")
    second.round(1)
    assert key(first.propose(2)) == key(second.propose(2))
    only(second.member.trained(2, bytes(16), examples=23, norms=(0.0, 0.0), metrics={}), w.Ready)
    late = first.member.trained(2, bytes(16), examples=23, norms=(0.0, 0.0), metrics={})
    assert "was contributed to already" in declined(late)
