"""Attack: once the rounds of a data set are used up, go on under another charter, or with a node that was restarted.

What was released of a data set is counted by its owner's own node, for the data set, whatever charter it was under.
"""

from __future__ import annotations

from pathlib import Path

from cloister.charter.owner_limits import Floors
from cloister.node.study.journal import Records
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
    assert "was in 3 releases, those of earlier studies included, and its owner's floors allow 3" in declined(
        second.member.handle(second.proposal(2))
    )
    third = facing(notes, 3)
    assert "was in 3 releases" in declined(third.member.handle(third.proposal(1)))
    notes.close()


def test_rounds_that_were_signed_and_never_released_count_too() -> None:
    """Whoever holds the signatures can publish the round at any time."""
    notes = Records(None)
    here = facing(notes, 1)
    for number in (1, 2, 3):
        here.contribute(number)
        here.sign(number)
    assert "was in 3 releases" in declined(here.member.handle(here.proposal(4)))


def test_two_charters_at_once_share_one_budget() -> None:
    notes = Records(None)
    one, two = facing(notes, 1), facing(notes, 2)
    for number in (1, 2, 3):  # all of them trained before one of them is signed
        (one if number % 2 else two).contribute(number)
        (one if number % 2 else two).sign(number)
    two.member.handle(two.proposal(5))
    assert notes.spent("#mri") == 3
    assert "was in 3 releases" in declined(one.member.handle(one.proposal(6)))


def test_bearing_witness_is_free() -> None:
    notes = Records(None)
    here = facing(notes, 1)
    for number in range(1, 6):
        here.sign(number, ("alice", "chuck"))
    assert notes.spent("#mri") == 0
    here.contribute(6)
