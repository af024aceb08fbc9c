"""Attack: tell one owner another plan, data tag, seed or round than the others, so that its part stands out.

Each owner computes the round's digest from what it is about to run, and signs only a cohort of that digest.
"""

from __future__ import annotations

import hashlib

import pytest

from cloister.ledger.job import encode, job_digest, round_digest
from cloister.wire import optimizers
from cloister.wire import rounds as w
from tests.support.members import Aggregator, declined, job, only, owner

DATA = {"#mri": frozenset({"#mri"}), "#ct": frozenset({"#ct"})}


@pytest.fixture
def here() -> Aggregator:
    return Aggregator.facing(owner(data=DATA))


@pytest.mark.parametrize(
    "changed",
    [{"data": "#ct"}, {"seed": 8}, {"local_epochs": 2}, {"strategy": "FedProx", "numbers": {"mu": 1.0}}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_job_that_differs_between_owners(here: Aggregator, changed: dict[str, object]) -> None:
    """It trains for the job that it was shown, and signs for no other."""
    shown = here.job
    here.job = job(here.ledger.charter, **changed)
    here.show()
    here.contribute(1)
    here.job = shown  # the others'
    assert "another job" in declined(here.ask(here.cohort(1)))


def test_a_round_of_a_job_that_it_was_not_shown(here: Aggregator) -> None:
    other = job_digest(encode(job(here.ledger.charter, seed=8)))
    assert "not shown" in declined(here.member.handle(here.proposal(job=other)))


def test_a_plan_that_nobody_signed(here: Aggregator) -> None:
    plan = b"a plan that writes a row into a weight"
    here.job = job(here.ledger.charter, plan=plan)
    here.show()
    why = declined(here.member.handle(here.proposal()))
    assert hashlib.sha256(plan).hexdigest() in why


def test_work_that_contributes_nothing(here: Aggregator) -> None:
    """All owners but one with a learning rate of zero would leave that one alone in the mean."""
    here.job = job(here.ledger.charter, optimizer=optimizers.SGD(0.0, 0.0, None, None, 0.0, 0.0, False))
    here.show()
    assert "contribute nothing" in declined(here.member.handle(here.proposal()))


def test_a_data_set_that_its_owner_did_not_name(here: Aggregator) -> None:
    here.job = job(here.ledger.charter, data="#private")
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
    here.contribute(1)
    assert "round digest" in declined(here.ask(here.cohort(1, digest=digest)))


def test_a_contribution_asked_for_again_in_a_later_round(here: Aggregator) -> None:
    before = here.contribute(1)
    here.sign(1)
    here.release(1)
    after = here.contribute(2)
    assert before.commitment != after.commitment  # of the same values: the salt is new
    assert declined(here.member.handle(w.Send(1)))
    shares = here.cohort(2).shares
    own = only(here.ask(here.cohort(2, shares=shares)), w.Signature)
    assert own.round == 2
