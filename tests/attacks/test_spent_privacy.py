"""Attack: have a data set told more of than its owner allows, by several charters at once or one after the other, by a
charter with less noise or none, by rounds that are called void, or by a node that was restarted.

What noise cost is counted by its owner's own node, for the data set, from the consent on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.accounting.accountant import Spent, epsilon
from cloister.charter import Charter
from cloister.charter.jobs import Sampling
from cloister.charter.owner_limits import PrivacyBudget
from cloister.node.study.journal import Records
from cloister.node.study.privacy import cost
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from tests.support.members import Aggregator, agreed_job, charter, declined, owner

pytestmark = pytest.mark.slow  # of epsilons, whose library alone takes most of a second to load

DELTA, RATE, Z = 1e-6, 0.25, 3.0
THREE = epsilon([Spent(Z, RATE, 3)], delta=DELTA)
OVER = "would have spent epsilon"


def noisy(serial: int = 1, *, multiplier: float = Z) -> Charter:
    job = agreed_job(weights="uniform", steps=1, optimizer=SGD(0.5), sampling=Sampling(rate=RATE, rows=10))
    noise = f'{{ unit = "record", multiplier = {multiplier}, delta = 1e-5 }}'
    return charter(jobs=[job], noise=noise, row_buckets="[]", limits="", **_place(serial))


def _place(serial: int) -> dict[str, object]:
    return {"serial": serial, "supersedes": None if serial == 1 else bytes(31) + bytes([serial - 1])}


def facing(notes: Records, agreed: Charter) -> Aggregator:
    """Bob, who allows what three rounds cost, before the aggregator of a charter."""
    return Aggregator.facing(owner(notes=notes, agreed=agreed, budgets={"#mri": PrivacyBudget(THREE, DELTA)}))


def refused(here: Aggregator, number: int) -> str:
    return declined(here.member.handle(here.proposal(number)))


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Records]:
    found = Records(tmp_path)
    yield found
    found.close()


def spent(notes: Records) -> float:
    return cost([each for each in notes.noises("#mri") if each is not None], delta=DELTA)


def test_without_the_memory_each_charter_would_have_a_budget_of_its_own() -> None:
    for serial in (1, 2):
        notes = Records(None)
        here = facing(notes, noisy(serial))
        for number in (1, 2, 3):
            here.round(number)
        assert spent(notes) == THREE


def test_two_charters_at_once_share_one_budget(notes: Records) -> None:
    """All of these trained before one of them was consented to."""
    one, two = facing(notes, noisy()), facing(notes, noisy(2))
    for number in (1, 2):
        one.contribute(number)
        one.consent(number)
    one.contribute(3)
    two.contribute(1)
    two.consent(1)
    assert OVER in declined(one.draft(one.cohort(3)))
    assert spent(notes) == THREE
    assert OVER in refused(two, 2)


def test_a_node_that_was_restarted_goes_on_with_what_is_left(tmp_path: Path) -> None:
    for start in (1, 3):
        notes = Records(tmp_path)
        here = facing(notes, noisy(start))
        here.round(1)
        if start == 1:
            here.round(2)
        else:
            assert OVER in refused(here, 2)
        notes.close()


def test_a_charter_with_less_noise_costs_what_its_noise_costs(notes: Records) -> None:
    facing(notes, noisy()).round(1)
    assert OVER in refused(facing(notes, noisy(2, multiplier=0.5)), 1)


def test_a_charter_without_noise_costs_all_there_is(notes: Records) -> None:
    facing(notes, noisy()).round(1)
    without = facing(notes, charter(**_place(2)))
    assert "this round has no noise" in refused(without, 1)


def test_only_owners_answers_give_back_what_was_spent(notes: Records) -> None:
    here = facing(notes, noisy())
    for number in (1, 2, 3):
        here.contribute(number)
        here.consent(number)
        here.member.handle(w.Over(number, "it is void, really"))
    here.member.handle(here.answers(4, ("alice",)))
    assert OVER in refused(here, 5)
    assert spent(notes) == THREE
    here.member.handle(here.answers(3, ("alice", "chuck")))
    assert spent(notes) == epsilon([Spent(Z, RATE, 1)], delta=DELTA)
    here.contribute(6)
