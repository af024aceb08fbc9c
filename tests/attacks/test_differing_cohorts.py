"""Attack: have two rounds on one model, with one member more in one of them, and take the difference of the two.

An operator who restarts or clones the aggregator can begin as many rounds on one model as it likes. Each owner knows
every cohort that it signed, and signs none that differs from an earlier one on the same model by fewer than the floor.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from cloister.charter.owner_limits import Floors
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from tests.support.members import Aggregator, charter, declined, only, owner

FIVE = ("alice", "bob", "chuck", "dora", "emil")


def test_a_clone_of_the_aggregator_asks_for_one_member_less() -> None:
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.sign(1)  # and it is never heard of again
    clone = Aggregator.facing(owner(notes=notes), instance="clone")
    clone.contribute(2)
    assert "differs in 1 members" in declined(clone.ask(clone.cohort(2, ("alice", "bob"))))
    clone.sign(2)  # the same members: their mean once more tells nothing new of one of them


def test_an_owner_that_was_restarted_remembers(tmp_path: Path) -> None:
    notes = Records(tmp_path)
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.sign(1)
    notes.close()
    notes = Records(tmp_path)
    again = Aggregator.facing(owner(notes=notes), instance="again")
    assert "differs in 1 members" in declined(again.ask(again.cohort(2, ("alice", "chuck"))))
    notes.close()


def test_the_same_model_under_another_charter() -> None:
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.sign(1)
    successor = charter(serial=2, supersedes=first.ledger.charter.digest)
    other = Aggregator.facing(owner(notes=notes, agreed=successor))
    other.contribute(1)
    assert "differs in 1 members" in declined(other.ask(other.cohort(1, ("alice", "bob"))))


@pytest.mark.slow
@pytest.mark.parametrize("floor", [2, 3, 4])
def test_every_pair_of_cohorts(floor: int) -> None:
    """Of five owners: a second cohort is signed if it is the first, or differs in as many members as the floor says."""
    agreed = charter(owners=FIVE)
    cohorts = [each for size in range(floor, 6) for each in combinations(FIVE, size)]
    first = cohorts[-1]
    for second in cohorts:
        here = Aggregator.facing(owner(agreed=agreed, floors=Floors(floor=floor)))
        here.contribute(1)
        here.sign(1, first)
        here.contribute(2)
        effects = here.ask(here.cohort(2, second))
        differing = len(set(first) ^ set(second))
        if differing == 0 or differing >= floor:
            assert only(effects, w.Signature)
        else:
            assert f"differs in {differing} members" in declined(effects)
