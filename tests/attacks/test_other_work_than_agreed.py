"""Attack: tell one owner another plan, job, data tag or round than the others, so that its part stands out.

Each owner computes the round's digest from what it is about to run, and signs only a cohort of that digest.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from cloister.errors import CharterError
from cloister.ledger.job import encode, job_digest, round_digest
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from cloister.wire.strategies import FedProx
from tests.support.members import Aggregator, agreed_job, charter, declined, job, only, owner

DATA = {"#mri": frozenset({"#mri"}), "#ct": frozenset({"#ct"})}


OTHERS: dict[str, dict[str, Any]] = {
    "data": {"data": "#ct"},
    "private": {"data": "#private"},
    "rate": {"optimizer": SGD(0.2)},
    "steps": {"steps": 5},
    "strategy": {"strategy": FedProx(mu=1.0)},
    "rounds": {"rounds": 3},
}
"""What other jobs of the charter are called, and what differs in each."""


@pytest.fixture
def here() -> Aggregator:
    agreed = charter(jobs=[agreed_job(), *(agreed_job(name=name, **changed) for name, changed in OTHERS.items())])
    return Aggregator.facing(owner(data=DATA, agreed=agreed))


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "private"])
def test_a_job_that_differs_between_owners(here: Aggregator, name: str) -> None:
    """It trains for the job that it was shown, and agrees to no other."""
    shown = here.job
    here.job = job(here.ledger.charter, name=name)
    here.show()
    here.contribute(1)
    here.job = shown  # the others'
    assert "another job" in declined(here.draft(here.cohort(1)))


def test_a_round_of_a_job_that_it_was_not_shown(here: Aggregator) -> None:
    other = job_digest(encode(job(here.ledger.charter, name="steps")))
    assert "not shown" in declined(here.member.handle(here.proposal(job=other)))


def test_a_plan_that_nobody_signed(here: Aggregator) -> None:
    plan = b"a plan that writes a row into a weight"
    here.job = job(here.ledger.charter, plan=plan)
    here.show()
    why = declined(here.member.handle(here.proposal()))
    assert hashlib.sha256(plan).hexdigest() in why


def test_work_that_contributes_nothing() -> None:
    """All owners but one with a learning rate of zero would leave that one alone in the mean. No charter says so."""
    with pytest.raises(CharterError, match="contribute nothing"):
        charter(jobs=[agreed_job(optimizer=SGD(0.0))])


def test_a_job_that_stands_in_no_charter(here: Aggregator) -> None:
    here.job = job(here.ledger.charter, name="idle")
    here.show()
    assert "no job 'idle'" in declined(here.member.handle(here.proposal()))


def test_one_job_under_the_name_of_another(here: Aggregator) -> None:
    """It would stand in the chain with numbers that nobody trained with."""
    here.contribute(1)
    assert "calls the job otherwise" in declined(here.ask(here.cohort(1, name="rate")))


def test_a_data_set_that_its_owner_did_not_name(here: Aggregator) -> None:
    here.job = job(here.ledger.charter, name="private")
    here.show()
    assert "'#private'" in declined(here.member.handle(here.proposal()))


def test_the_digest_of_another_round(here: Aggregator) -> None:
    proposed = here.proposal(1)
    digest = round_digest(
        proposed.job,
        charter=here.ledger.charter.digest,
        number=2,
        model=proposed.model,
        head=proposed.head,
    )
    assert "digest" in declined(here.member.handle(here.proposal(1, digest=digest)))
    here.contribute(2)  # what was declined is answered
    assert "round digest" in declined(here.ask(here.cohort(2, digest=proposed.digest)))


def test_a_contribution_asked_for_again_in_a_later_round(here: Aggregator) -> None:
    before = here.contribute(1)
    here.consent(1)
    here.commit(1)
    here.release(1)
    after = here.contribute(2)
    assert before.commitment != after.commitment  # of the same values: the salt is new
    assert declined(here.member.handle(w.Send(1)))
    shares = here.cohort(2).shares
    own = only(here.draft(here.cohort(2, shares=shares)), w.Consent)
    assert own.round == 2
