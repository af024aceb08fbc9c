"""A data set's privacy budget: what rounds cost it, under whatever charter and name, and what is not signed over it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from cloister.accounting.accountant import MOST_ROUNDS, Spent, epsilon
from cloister.charter import Charter
from cloister.charter.jobs import Sampling
from cloister.charter.owner_limits import PrivacyBudget
from cloister.errors import RoundError
from cloister.ledger.records import Noised
from cloister.node.study.effects import Train
from cloister.node.study.entries import Consented, Content
from cloister.node.study.journal import Records
from cloister.node.study.privacy import check_privacy, cost
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from tests.support import chains
from tests.support.members import Aggregator, agreed_job, charter, declined, only, owner

pytestmark = pytest.mark.slow  # of epsilons, whose library alone takes most of a second to load

DELTA = 1e-6
RATE, Z = 0.25, 3.0
RECORD = Noised("record", Z, RATE, 1.0)
WHOLE = Noised("owner", 5.0, 1.0, 1.0)


def rounds(*spent: tuple[float, float, int]) -> float:
    return epsilon([Spent(*each) for each in spent], delta=DELTA)


def budget(of: float) -> PrivacyBudget:
    return PrivacyBudget(of, DELTA)


# What it comes to


def test_rounds_cost_what_the_accountant_says_of_all_of_them_together() -> None:
    assert cost([], delta=DELTA) == 0
    assert cost([RECORD] * 7, delta=DELTA) == rounds((Z, RATE, 7))
    mixed = [RECORD, WHOLE, RECORD, Noised("record", 2.0, RATE, 1.0), Noised("record", Z, 0.1, 1.0)]
    assert cost(mixed, delta=DELTA) == rounds((Z, RATE, 2), (2.5, 1.0, 1), (2.0, RATE, 1), (Z, 0.1, 1)), (
        "for a record, noise that hides an owner is worth half: it may be two clips away"
    )
    assert cost(mixed, delta=DELTA) == cost(mixed[::-1], delta=DELTA) > cost(mixed[1:], delta=DELTA)


def test_the_clip_costs_nothing_since_noise_is_a_multiple_of_it() -> None:
    assert cost([Noised("record", Z, RATE, 100.0)], delta=DELTA) == cost([RECORD], delta=DELTA)


def test_the_budget_is_for_the_round_that_is_asked_for_too() -> None:
    two = rounds((Z, RATE, 2))
    check_privacy("#mri", budget=budget(two), before=[RECORD], noise=RECORD)
    with pytest.raises(RoundError, match=rf"spent epsilon {two:.6g} at delta 1e-06, and its owner allows"):
        check_privacy("#mri", budget=budget(math.nextafter(two, 0)), before=[RECORD], noise=RECORD)
    check_privacy("#mri", budget=budget(math.nextafter(two, 0)), before=[], noise=RECORD)


@pytest.mark.parametrize(
    ("before", "noise", "text"),
    [([], None, "this round has no noise"), ([RECORD, None], RECORD, "rounds without noise were released of it")],
)
def test_no_epsilon_bounds_rounds_without_noise(before: list[Noised | None], noise: Noised | None, text: str) -> None:
    with pytest.raises(RoundError, match=text):
        check_privacy("#mri", budget=budget(1e9), before=before, noise=noise)


def test_what_cannot_be_computed_is_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RoundError, match=f"epsilon 9: {MOST_ROUNDS + 1} rounds cannot be counted"):
        check_privacy("#mri", budget=budget(9.0), before=[RECORD] * MOST_ROUNDS, noise=RECORD)
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    with pytest.raises(RoundError, match=r"epsilon 8: .*pip install 'cloister\[noise\]'"):
        check_privacy("#mri", budget=PrivacyBudget(8.0, 1.234e-6), before=[], noise=RECORD)


# At an owner


def noisy(*, name: str = "stroke-study", rate: float = RATE, z: float = Z, **changed: Any) -> Charter:
    """A charter whose noise hides records."""
    job = agreed_job(weights="uniform", steps=1, optimizer=SGD(0.5), sampling=Sampling(rate=rate, rows=10))
    noise = f'{{ unit = "record", multiplier = {z}, delta = 1e-5 }}'
    given = {"jobs": [job], "noise": noise, "row_buckets": "[]", "limits": "", **changed}
    return charter(**given)


def facing(notes: Records, allowed: float, agreed: Charter | None = None, **changed: Any) -> Aggregator:
    """Bob, who allows so much, before an aggregator."""
    member = owner(agreed=agreed or noisy(), notes=notes, budgets={"#mri": budget(allowed)}, **changed)
    return Aggregator.facing(member)


def refused(here: Aggregator, number: int) -> str:
    return declined(here.member.handle(here.proposal(number)))


def test_rounds_are_declined_once_the_next_one_would_be_over_the_budget() -> None:
    here = facing(Records(None), rounds((Z, RATE, 2)))
    for number in (1, 2):
        here.round(number)
    assert "would have spent epsilon" in refused(here, 3)
    assert "the data set '#mri'" in refused(here, 4)


def test_no_round_is_left_where_no_epsilon_is() -> None:
    """Of what an owner publishes: its rounds, until its privacy budget has no room for one more."""
    here = facing(Records(None), rounds((Z, RATE, 2)), publish_budget=True)
    told = []
    for number in (1, 2):
        told.append(here.contribute(number).standing.left)
        here.consent(number)
        here.commit(number)
        here.release(number)
    told.append(only(here.member.handle(here.proposal(3)), w.Declined).standing.left)
    assert told == [100, 99, 0]


def test_without_a_budget_rounds_alone_are_counted() -> None:
    notes = Records(None)
    here = Aggregator.facing(owner(agreed=noisy(), notes=notes))
    for number in range(1, 5):
        here.round(number)
    assert notes.spent("#mri") == 4
    assert here.ledger.released == 4


def test_no_consent_is_signed_over_the_budget() -> None:
    """Under another charter the same rounds were agreed to while this one was trained for."""
    notes = Records(None)
    here = facing(notes, rounds((Z, RATE, 2)))
    here.contribute()
    elsewhere(notes, count=2)
    before = notes._count
    assert "would have spent epsilon" in declined(here.draft(here.cohort()))
    assert notes._count == before
    assert notes.consents(here.ledger.charter.digest) == ()


def elsewhere(notes: Records, *, count: int, noise: Noised | None = RECORD, data: str = "#mri") -> list[Consented]:
    """So many rounds that were agreed to under another charter."""
    found = []
    for number in range(1, count + 1):
        digest = chains.digest("elsewhere", data, number)
        entry = Consented(bytes([7]) * 32, number, digest, digest, ("a", "b"), data, noise)
        notes.consent(entry)
        found.append(entry)
    return found


def test_rounds_of_all_charters_count_with_the_noise_that_each_had() -> None:
    notes = Records(None)
    elsewhere(notes, count=3, noise=Noised("record", 2.0, 0.1, 1.0))
    assert "would have spent" in refused(facing(notes, rounds((Z, RATE, 1), (2.0, 0.1, 2))), 1)
    here = facing(notes, rounds((Z, RATE, 1), (2.0, 0.1, 3)))
    here.round(2)
    assert "would have spent" in refused(here, 3)


def test_a_study_without_noise_before_leaves_no_budget_and_one_after_is_declined() -> None:
    notes = Records(None)
    elsewhere(notes, count=1, noise=None)
    assert "rounds without noise were released of it" in refused(facing(notes, 1e9), 1)
    plain = facing(Records(None), 1e9, charter())
    assert "this round has no noise" in refused(plain, 1)


def test_a_round_that_is_void_costs_nothing() -> None:
    here = facing(Records(None), rounds((Z, RATE, 1)))
    here.contribute()
    here.consent()
    here.consent(names=("bob", "alice"))  # another draft of it: still one round
    assert "would have spent" in refused(here, 2)
    here.member.handle(here.answers(2, ("alice", "chuck"), committed=[]))
    here.round(3)
    assert "would have spent" in refused(here, 4)


def test_another_draft_of_a_round_is_the_same_round() -> None:
    here = facing(Records(None), rounds((Z, RATE, 1)))
    here.contribute()
    here.consent()
    here.consent()
    here.consent(names=("bob", "alice"))
    assert len(here.member._records.noises("#mri")) == 1


def seen_as(notes: Records, *names: str) -> None:
    """The same file was seen under these names."""
    for name in names:
        notes.see(Content(name, bytes(32), 1, 2, 3, 4, "/data/mri.npz"))


def test_a_data_set_that_is_called_otherwise_has_one_budget() -> None:
    notes = Records(None)
    seen_as(notes, "#before", "#mri")
    elsewhere(notes, count=2, data="#before")
    assert "would have spent" in refused(facing(notes, rounds((Z, RATE, 2))), 1)
    other = Records(None)
    elsewhere(other, count=2, data="#another")
    facing(other, rounds((Z, RATE, 1))).contribute()


@pytest.mark.parametrize("names", [("bob", "alice"), ("alice", "chuck")])
def test_a_witness_needs_no_budget(names: Sequence[str]) -> None:
    """It commits what others' budgets are spent by, or what was agreed to already."""
    notes = Records(None)
    here = facing(notes, rounds((Z, RATE, 1)))
    here.contribute()
    if "bob" in names:
        here.consent(names=names)
    elsewhere(notes, count=5)
    here.commit(names=names)
    assert 1 in notes.commits(here.ledger.charter.digest)


# How rows are drawn


def test_a_round_s_draw_is_by_its_own_number_and_job_and_salt() -> None:
    here = facing(Records(None), 1e9)
    first: Train = here.propose(1)
    assert first.draw is not None
    assert (first.draw.rate, first.draw.rows, first.nbytes) == (RATE, 10, 16)
    only(here.member.failed(1, "it took too long"), w.Declined)
    second = here.propose(2)  # on the same model, for the same release
    assert second.draw is not None
    assert second.seeds == first.seeds
    assert second.draw.key != first.draw.key
    other = facing(Records(None), 1e9, unsafe_salt=bytes(32)).propose(1)
    assert other.draw is not None
    assert other.draw.key not in (first.draw.key, second.draw.key)


def test_rows_are_not_drawn_where_noise_hides_none() -> None:
    assert Aggregator.facing(owner()).propose(1).draw is None
