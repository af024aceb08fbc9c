"""Attack: have two rounds on one model, with one member more in one of them, and take the difference of the two.

An operator who restarts or clones the aggregator can begin as many rounds on one model as it likes. Each owner knows
every cohort that it committed, and commits none that differs from an earlier one on the same model by fewer than the
floor, unless that one is void. Under two charters each member looks at what it consented to.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from cloister.ledger.job import Tensors
from cloister.node.study import sketches
from cloister.node.study.effects import Note
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from tests.support.members import PARTS, START, Aggregator, agreed_job, charter, declined, only, owner

FIVE = ("alice", "bob", "chuck", "dora", "emil")


def test_a_clone_of_the_aggregator_asks_for_one_member_less() -> None:
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.commit(1)  # and it is never heard of again
    clone = Aggregator.facing(owner(notes=notes), instance="clone")
    clone.contribute(2)
    assert "differs in 1 members" in declined(clone.ask(clone.cohort(2, ("alice", "bob"))))
    clone.commit(2)  # the same members: their mean once more tells nothing new of one of them


def test_an_owner_that_was_restarted_remembers(tmp_path: Path) -> None:
    notes = Records(tmp_path)
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.commit(1)
    notes.close()
    notes = Records(tmp_path)
    again = Aggregator.facing(owner(notes=notes), instance="again")
    assert "differs in 1 members" in declined(again.ask(again.cohort(2, ("alice", "chuck"))))
    notes.close()


def test_the_same_model_under_another_charter() -> None:
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.consent(1)
    successor = charter(serial=2, supersedes=first.ledger.charter.digest)
    other = Aggregator.facing(owner(notes=notes, agreed=successor))
    other.contribute(1)
    assert "differs in 1 members" in declined(other.draft(other.cohort(1, ("alice", "bob"))))


def rounded(part: float) -> bytes:
    """The first model, each of its values changed by some part of itself; or one of them alone, by an ulp."""
    values = np.frombuffer(START, np.float32).copy()
    if part:
        values *= np.float32(1) + np.float32(part) * np.float32([1, -1, 1, -1])
    else:
        values[1] = np.nextafter(values[1], np.float32(2))
    return values.tobytes()


def consents_beside(notes: Records, model: bytes) -> str:
    """Why bob, who consented to a cohort of three under a charter, consents to none of two under another that has this
    model; empty where he does."""
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    first.consent(1)
    other = charter(jobs=[agreed_job(name="other")], first_model=f'"{Tensors(PARTS).name_of(model).hex()}"')
    there = Aggregator.facing(owner(notes=notes, agreed=other), name="other", model=model)
    there.contribute(1)
    effects = there.draft(there.cohort(1, ("alice", "bob")))
    refuses = any(isinstance(each, Note) and "not consented to" in each.text for each in effects)
    return declined(effects) if refuses else ""


@pytest.mark.parametrize("part", [0.0, 2**-11, 2**-8], ids=["an ulp", "float16", "bfloat16"])
def test_a_model_that_is_the_same_but_for_rounding(part: float) -> None:
    """Its digest is another, and the difference of two means is the same as on one model, to a cosine above 0.95."""
    assert "differs in 1 members" in consents_beside(Records(None), rounded(part))


def test_without_the_sketch_the_rounded_model_would_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "near", lambda one, other: False)
    assert consents_beside(Records(None), rounded(0.0)) == ""


def test_another_model_is_another(tmp_path: Path) -> None:
    """Two studies of one data set have the members that they have."""
    assert consents_beside(Records(None), np.float32([3, 1, 0, 2]).tobytes()) == ""


def test_the_rounds_of_one_chain_are_on_models_that_are_near_each_other() -> None:
    """An owner that is away from one of them is what noise is for; to refuse that would end a study."""
    large = np.full(4, 2.0**20, np.float32).tobytes()  # each round moves it by a millionth
    agreed = charter(first_model=f'"{Tensors(PARTS).name_of(large).hex()}"')
    here = Aggregator.facing(owner(agreed=agreed), model=large)
    here.round(1)
    here.contribute(2)
    here.consent(2, ("alice", "bob"))
    assert here.commit(2, ("alice", "bob")).round == 2


@pytest.mark.slow
@pytest.mark.parametrize("floor", [2, 3, 4])
def test_every_pair_of_cohorts(floor: int) -> None:
    """Of five owners: a second cohort is committed if it is the first, or differs in as many as the floor says."""
    agreed = charter(owners=FIVE, floor=floor)
    cohorts = [each for size in range(floor, 6) for each in combinations(FIVE, size)]
    first = cohorts[-1]
    for second in cohorts:
        here = Aggregator.facing(owner(agreed=agreed))
        here.contribute(1)
        here.commit(1, first)
        here.contribute(2)
        effects = here.ask(here.cohort(2, second))
        differing = len(set(first) ^ set(second))
        if differing == 0 or differing >= floor:
            assert only(effects, w.Commit)
        else:
            assert f"differs in {differing} members" in declined(effects)
