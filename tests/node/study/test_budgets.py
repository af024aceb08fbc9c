"""What ``node log`` shows of a node's records: its part in each round, and what is left of each data set's budget."""

from __future__ import annotations

from cloister.charter.owner_limits import Floors
from cloister.node.study.budgets import Budget, Line, budgets, lines
from cloister.node.study.journal import Records
from tests.support.members import OWNERS, Aggregator, charter, declined, owner

OTHERS = ("alice", "chuck")


def line(here: Aggregator, number: int, **changed: object) -> Line:
    given = {"data": "#mri", "contributed": True, "committed": "", "spent": False, "released": False}
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
