"""Attack: have owners train a model that no round released: one that gives their rows away, or an old one once more.

An owner trains the charter's first model, or what the newest record released, and knows it by its values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.ledger.job import model_digest
from cloister.node.study.journal import Records
from tests.support.members import START, Aggregator, declined, job, leaves, owner

CRAFTED = np.full(4, 1e6, np.float32).tobytes()


@pytest.fixture
def here() -> Aggregator:
    found = Aggregator.facing(owner())
    found.round(1)
    return found


def test_a_crafted_model(here: Aggregator) -> None:
    digest = model_digest(here.job, CRAFTED)
    assert "neither the charter's first" in declined(here.member.handle(here.proposal(2, model=digest)))


def test_the_first_model_again(here: Aggregator) -> None:
    first = here.ledger.charter.limits.first_model
    assert "neither the charter's first" in declined(here.member.handle(here.proposal(2, model=first)))


def test_other_values_under_the_right_name(here: Aggregator) -> None:
    for values in (CRAFTED, START, START + START):
        assert "not the one" in leaves(here.chain(after=here.ledger.sequence, model=values))
    assert here.propose(2).model == here.model  # what was released is what it goes on with


def test_a_job_that_starts_from_another_model(here: Aggregator) -> None:
    here.job = job(here.ledger.charter, start=model_digest(here.job, CRAFTED))
    here.show()
    assert "starts from another model" in declined(here.member.handle(here.proposal(2)))


def test_a_cohort_of_a_round_that_began_elsewhere(here: Aggregator) -> None:
    here.contribute(2)
    first = here.ledger.charter.limits.first_model
    assert "another model" in declined(here.ask(here.cohort(2, model=first)))


def test_values_that_are_changed_on_the_disk_of_the_owner(tmp_path: Path) -> None:
    """Not the attacker's to do; but a model that rotted is not trained either."""
    notes = Records(tmp_path)
    Aggregator.facing(owner(notes=notes)).round(1)
    notes.catch_up(whole=True)
    notes.close()
    next(tmp_path.glob("*.model")).write_bytes(CRAFTED)
    notes = Records(tmp_path)
    assert notes.model(notes.charters[0]) is None
    notes.close()
