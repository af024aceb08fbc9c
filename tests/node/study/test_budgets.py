"""What ``node log`` shows of a node's records: its part in each round, and what is left of each data set's budget."""

from __future__ import annotations

import math
import sys

import pytest

from cloister.charter import Charter
from cloister.charter.owner_limits import Floors, PrivacyBudget
from cloister.ledger.records import Noised
from cloister.node.study.budgets import Budget, Line, Privacy, budgets, lines, privacy
from cloister.node.study.journal import Records
from cloister.node.study.privacy import check_privacy, cost
from tests.support.members import OWNERS, Aggregator, charter, declined, hidden, owner

OTHERS = ("alice", "chuck")
NOISED = Noised("record", 2.0, 0.25, 1.0)


def line(here: Aggregator, number: int, **changed: object) -> Line:
    given = {"data": "#mri", "contributed": True, "committed": "", "spent": False, "released": False, "noise": None}
    return Line(here.ledger.charter.digest.hex(), number, **given | changed)  # type: ignore[arg-type]


def test_a_line_for_each_round() -> None:
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.round(1)
    here.contribute(2)  # and it is in no cohort
    here.contribute(3)
    here.consent(3)  # and it is never committed
    here.contribute(4)
    here.commit(4, OTHERS)
    here.commit(6, OTHERS)
    assert declined(here.member.handle(here.proposal(7, head=bytes(32))))
    assert lines(notes) == [
        line(here, 1, committed="member", spent=True, released=True),
        line(here, 2),
        line(here, 3, spent=True),
        line(here, 4, committed="witness"),
        line(here, 6, data="", contributed=False, committed="witness"),
    ]


def test_a_round_that_is_void_is_not_spent() -> None:
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute(1)
    here.consent(1)
    here.consent(1, ("bob", "alice"))
    here.commit(1)
    here.member.handle(here.answers(2, OTHERS, committed=[]))
    assert lines(notes) == [line(here, 1, committed="member")]
    assert budgets(notes, names=["#mri"], charters=[(charter(), None)]) == [Budget("#mri", 0, 100, 100)]


def test_what_is_left_is_what_the_most_generous_charter_allows() -> None:
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute(1)
    here.consent(1, OWNERS)
    here.consent(1, ("bob", "alice"))
    found = budgets(
        notes, names=["#mri", "#ct"], charters=[(charter(), Floors(rounds=2)), (charter(), Floors(rounds=3))]
    )
    assert found == [Budget("#mri", 1, 3, 2), Budget("#ct", 0, 3, 3)]


# What rounds with noise have told


def told(notes: Records, budget: PrivacyBudget | None = None, *charters: Charter) -> list[Privacy]:
    return [*privacy(notes, budgets={"#mri": budget}, charters=charters)]


def test_what_was_told_is_what_the_node_counts_before_each_round() -> None:
    notes, agreed = Records(None), charter(**hidden())
    here = Aggregator.facing(owner(notes=notes, agreed=agreed))
    here.round(1)
    here.contribute(2)  # and it is in no cohort
    here.contribute(3)
    here.consent(3)  # which may still come out
    assert [each.noise for each in lines(notes)] == [NOISED] * 3
    spent = cost([NOISED] * 2, delta=1e-5)
    assert told(notes, None, agreed) == [Privacy("#mri", 2, 0, 1e-5, spent, None, None)]
    enough = PrivacyBudget(cost([NOISED] * 3, delta=1e-6), 1e-6)
    (found,) = told(notes, enough, agreed)
    assert found == Privacy("#mri", 2, 0, 1e-6, cost([NOISED] * 2, delta=1e-6), enough.epsilon, found.left)
    assert found.left is not None
    assert math.isclose(found.left, enough.epsilon - cost([NOISED] * 2, delta=1e-6))
    check_privacy("#mri", budget=enough, before=notes.noises("#mri"), noise=NOISED)


def test_a_witness_has_no_noise_of_its_own() -> None:
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes, agreed=charter(**hidden())))
    here.commit(1, OTHERS)
    assert [(each.contributed, each.noise) for each in lines(notes)] == [(False, None)]


def test_without_a_budget_the_least_delta_of_the_charters_counts() -> None:
    finer = charter(**hidden(noise='{ unit = "record", multiplier = 3.0, delta = 1e-7 }'))
    assert [each.delta for each in told(Records(None), None, charter(**hidden()), finer, charter())] == [1e-7]
    assert told(Records(None), None, charter()) == []
    assert told(Records(None), PrivacyBudget(2.0, 1e-6), charter()) == [Privacy("#mri", 0, 0, 1e-6, 0.0, 2.0, 2.0)]


def test_nothing_bounds_what_rounds_without_noise_tell() -> None:
    notes = Records(None)
    Aggregator.facing(owner(notes=notes)).round(1)
    given = PrivacyBudget(2.0, 1e-6)
    assert told(notes, given, charter()) == [Privacy("#mri", 0, 1, 1e-6, None, 2.0, 0.0)]
    assert told(notes, None, charter(**hidden())) == [Privacy("#mri", 0, 1, 1e-5, None, None, None)]


def test_what_is_told_too_much_leaves_nothing() -> None:
    notes, agreed = Records(None), charter(**hidden())
    Aggregator.facing(owner(notes=notes, agreed=agreed)).round(1)
    (found,) = told(notes, PrivacyBudget(0.1, 1e-5), agreed)
    assert found.spent == cost([NOISED], delta=1e-5)
    assert found.left == 0.0


def test_a_node_that_cannot_count_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    noise = '{ unit = "record", multiplier = 2.345, delta = 1e-5 }'
    given = {"agreed": charter(**hidden(noise=noise)), "budgets": {"#mri": PrivacyBudget(50.0, 1e-6)}}
    here = Aggregator.facing(owner(**given))  # type: ignore[arg-type]
    why = declined(here.member.handle(here.proposal()))
    assert (
        "has a budget of epsilon 50: the epsilon of noise is computed by dp-accounting, which is not installed" in why
    )
    assert "pip install 'cloister[noise]'" in why
