"""Attack: once the rounds of a data set are used up, go on under another charter, or with a node that was restarted.

What was released of a data set is counted by its owner's own node, for the data set, whatever charter it was under.
"""

from __future__ import annotations

from pathlib import Path

from cloister.charter.owner_limits import Floors
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from tests.support.members import Aggregator, charter, declined, owner

LIMIT = Floors(rounds=3)


def facing(notes: Records, serial: int, *, name: str = "first") -> Aggregator:
    agreed = charter(serial=serial, supersedes=None if serial == 1 else bytes(31) + bytes([serial - 1]))
    return Aggregator.facing(owner(notes=notes, agreed=agreed, floors=LIMIT), instance=name)


def test_a_successor_of_the_charter_begins_with_what_is_left(tmp_path: Path) -> None:
    notes = Records(tmp_path)
    first = facing(notes, 1)
    first.round(1)
    first.round(2)
    notes.close()
    notes = Records(tmp_path)
    second = facing(notes, 2)
    second.round(1)
    told = declined(second.member.handle(second.proposal(2)))
    assert "was in 3 rounds that were released or still may be, those of earlier studies included" in told
    assert "its owner's floors allow 3" in told
    third = facing(notes, 3)
    assert "was in 3 rounds" in declined(third.member.handle(third.proposal(1)))
    notes.close()


def test_rounds_that_were_agreed_to_and_never_released_count_too() -> None:
    """A quorum can release the round at any time; whether it has, its members need not be told."""
    notes = Records(None)
    here = facing(notes, 1)
    for number in (1, 2, 3):
        here.contribute(number)
        here.consent(number)
    assert "was in 3 rounds" in declined(here.member.handle(here.proposal(4)))


def test_two_charters_at_once_share_one_budget() -> None:
    notes = Records(None)
    one, two = facing(notes, 1), facing(notes, 2)
    for number in (1, 2, 3):  # all of them trained before one of them is consented to
        (one if number % 2 else two).contribute(number)
        (one if number % 2 else two).consent(number)
    two.member.handle(two.proposal(5))
    assert notes.spent("#mri") == 3
    assert "was in 3 rounds" in declined(one.member.handle(one.proposal(6)))


def test_bearing_witness_is_free() -> None:
    notes = Records(None)
    here = facing(notes, 1)
    for number in range(1, 6):
        here.commit(number, ("alice", "chuck"))
    assert notes.spent("#mri") == 0
    here.contribute(6)


def test_only_owners_answers_give_back_what_was_spent() -> None:
    """The aggregator's word that a round is void does not, nor answers of too few owners, nor those of one twice."""
    notes = Records(None)
    here = facing(notes, 1)
    for number in (1, 2, 3):
        here.contribute(number)
        here.consent(number)
        here.member.handle(w.Over(number, "it is void, really"))
    here.member.handle(here.answers(4, ("alice",)))
    here.member.handle(here.answers(5, ("alice", "rosa")))
    here.member.handle(here.answers(1, ("alice", "chuck")))
    assert notes.spent("#mri") == 3
    here.member.handle(here.answers(3, ("alice", "chuck")))
    assert notes.spent("#mri") == 1
