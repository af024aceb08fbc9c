"""What an owner tells of its commits when it answers a round, and what others' answers tell it (docs/ledger.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloister.charter import Charter
from cloister.errors import RecordsError, RoundError
from cloister.ledger import answers
from cloister.ledger.answers import COHORTS, Answer
from cloister.ledger.chain import Ledger
from cloister.ledger.records import cohort_digest
from cloister.node.study import entries
from cloister.node.study.answering import Answering
from cloister.node.study.entries import Committed, Consented, Voided
from cloister.node.study.journal import Records
from cloister.wire import limits
from cloister.wire.limits import ANSWER_BYTES
from cloister.wire.rounds import SignedAnswer, Standing
from tests.support import chains, charters

THREE = ("bob", "alice", "chuck")
TWO = ("bob", "alice")
OTHERS = ("alice", "chuck")
AGREED = chains.charter()
ELSEWHERE = bytes([7]) * 32
"""Another charter."""


def ids_of(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(map(charters.fingerprint_of, names)))


class Bob:
    """Bob's records, and what he answers on ``ledger``."""

    def __init__(self, *, agreed: Charter = AGREED, notes: Records | None = None) -> None:
        self.agreed = agreed
        self.notes = notes or Records(None)
        self.ledger = Ledger(agreed)
        self.answering = Answering(agreed, key=charters.key_of("bob"), records=self.notes)

    def committed(
        self, number: int, names: Sequence[str] = THREE, *, model: bytes = chains.START, under: bytes | None = None
    ) -> Committed:
        digest = chains.digest("cohort", number, names)
        entry = Committed(under or self.agreed.digest, number, digest, model, ids_of(names), bytes(32))
        self.notes.commit(entry)
        return entry

    def consented(
        self, number: int, names: Sequence[str] = THREE, *, model: bytes = chains.START, under: bytes | None = None
    ) -> Consented:
        digest = chains.digest("cohort", number, names)
        entry = Consented(under or self.agreed.digest, number, digest, model, ids_of(names), "#mri")
        self.notes.consent(entry)
        return entry

    def told(self, entry: Consented | Committed) -> answers.Committed:
        """How an answer lists a cohort."""
        members = answers.mask(entry.members, charter=self.agreed)
        return answers.Committed(entry.round, entry.cohort, entry.model, members)

    def standing(self, number: int = 9) -> Standing:
        return self.answering.standing(number, model=chains.START, ledger=self.ledger)

    def answer(self, number: int = 9) -> Answer:
        return answers.read(self.standing(number).answer, charter=self.agreed)

    def shown(
        self, number: int, names: Sequence[str], *, listed: Sequence[answers.Committed] = (), at: Ledger | None = None
    ) -> list[SignedAnswer]:
        """What others answer."""
        newest = (at or self.ledger).settled()
        fields: dict[str, Any] = {"charter": self.agreed.digest, "round": number, "committed": tuple(listed)}
        answer = Answer(format="cloister answer 1", sequence=newest.sequence, head=newest.head, **fields)
        return [answers.sign(answer, key=charters.key_of(name)) for name in names]

    def is_void(self, entry: entries.Consented | entries.Committed) -> bool:
        return self.notes.is_void(self.agreed.digest, entry.cohort)


# What it tells


def test_an_answer_is_the_owner_s_and_says_what_was_asked() -> None:
    bob = Bob()
    signed = bob.standing(9).answer
    assert signed.signature.member == charters.fingerprint_of("bob")
    assert bob.answer() == Answer(
        format="cloister answer 1", charter=AGREED.digest, round=9, sequence=0, head=b"", committed=()
    )


def test_an_answer_names_the_newest_round_that_is_known_and_no_instance_after_it() -> None:
    bob = Bob()
    bob.ledger = chains.chain(2)
    newest = bob.ledger.head
    bob.ledger.append(chains.Instance("later").begin(bob.ledger))  # which another chain may lack
    assert (bob.answer().sequence, bob.answer().head) == (3, newest)


def test_an_answer_lists_commits_on_any_model_and_those_of_this_charter_alone() -> None:
    bob = Bob()
    told = [bob.told(bob.committed(number, model=bytes([number]) * 32)) for number in (1, 2)]
    bob.committed(1, under=ELSEWHERE)
    bob.consented(3)  # which was never committed
    assert bob.answer().committed == tuple(told)


def test_an_answer_lists_nothing_that_is_released_or_void() -> None:
    bob = Bob()
    bob.ledger = chains.chain(1)
    released = bob.ledger.receipts[0]
    digest = cohort_digest(released.record.cohort)
    bob.notes.commit(Committed(AGREED.digest, 1, digest, chains.START, ids_of(TWO), bytes(32)))
    void, still = bob.committed(2), bob.committed(3)
    bob.notes.void([Voided(AGREED.digest, void.cohort), Voided(ELSEWHERE, still.cohort)])
    assert bob.answer().committed == (bob.told(still),)
    bob.ledger = Ledger(AGREED)  # as long as the record is not known it is listed
    assert [each.round for each in bob.answer().committed] == [1, 3]


def test_members_are_told_by_their_keys_of_this_charter_though_ids_are_remembered() -> None:
    new, old = charters.fingerprint_of("chuck, later"), charters.fingerprint_of("chuck")
    text = charters.text(jobs=AGREED.jobs, limits=f'first_model = "{chains.START.hex()}"\n')
    text = text.replace(f'key = "{old}"\n', f'key = "{new}"\nid = "{old}"\n')
    bob = Bob(agreed=charters.parse_charter(text))
    bob.committed(1)
    bob.consented(1, under=ELSEWHERE)
    (listed,) = bob.answer().committed
    keys = frozenset({charters.fingerprint_of("bob"), charters.fingerprint_of("alice"), new})
    assert answers.unmask(listed.members, charter=bob.agreed) == keys
    assert bob.standing().elsewhere == (tuple(sorted(keys)),)


# What binds it elsewhere, and whether it is waiting


def test_elsewhere_are_the_cohorts_under_other_charters_on_the_model() -> None:
    bob = Bob()
    bob.consented(1, THREE, under=ELSEWHERE)
    bob.committed(1, THREE, under=ELSEWHERE)  # the same, told once
    bob.committed(2, OTHERS, under=ELSEWHERE)
    gone = bob.consented(3, TWO, under=ELSEWHERE)
    bob.notes.void([Voided(ELSEWHERE, gone.cohort)])
    bob.consented(4, TWO, under=ELSEWHERE, model=bytes(32))
    bob.consented(5, TWO)
    bob.committed(5, TWO)
    assert set(bob.standing().elsewhere) == {ids_of(THREE), ids_of(OTHERS)}
    assert len(bob.standing().elsewhere) == 2


def test_no_more_is_told_of_elsewhere_than_a_message_holds() -> None:
    bob = Bob()
    for number in range(1, limits.ELSEWHERE + 3):
        bob.consented(number, ("bob", f"owner {number}"), under=ELSEWHERE)
    assert len(bob.standing().elsewhere) == limits.ELSEWHERE


@pytest.mark.parametrize("agree", [Bob.consented, Bob.committed], ids=["consented", "committed"])
def test_it_waits_for_answers_while_something_is_open(agree: Callable[..., Consented | Committed]) -> None:
    bob = Bob()
    assert not bob.standing().open
    agree(bob, 1, under=ELSEWHERE)
    assert not bob.standing().open
    entry = agree(bob, 1)
    assert bob.standing().open
    bob.notes.void([Voided(AGREED.digest, entry.cohort)])
    assert not bob.standing().open


def test_it_waits_for_nothing_once_all_is_released() -> None:
    bob = Bob()
    ledger = chains.chain(1)
    digest = cohort_digest(ledger.receipts[0].record.cohort)
    bob.notes.consent(Consented(AGREED.digest, 1, digest, chains.START, ids_of(TWO), "#mri"))
    assert bob.standing().open
    bob.ledger = ledger
    assert not bob.standing().open


# More than an answer holds


def test_more_open_cohorts_than_an_answer_lists() -> None:
    bob = Bob()
    for number in range(1, COHORTS + 1):
        bob.committed(number)
    bob.answering.check_can(bob.ledger)
    assert len(bob.answer(COHORTS + 1).committed) == COHORTS
    assert len(bob.standing().answer.answer) <= ANSWER_BYTES
    bob.committed(COHORTS + 1)
    with pytest.raises(RoundError, match=rf"{COHORTS + 1} cohorts that this node committed may still be released, and"):
        bob.answering.check_can(bob.ledger)
    before = bob.notes._count
    assert bob.answering.decline(COHORTS + 2, ledger=bob.ledger) is None
    assert bob.notes._count == before
    bob.notes.void([Voided(AGREED.digest, bob.notes.commits(AGREED.digest)[1].cohort)])
    bob.answering.check_can(bob.ledger)
    assert bob.answering.decline(COHORTS + 2, ledger=bob.ledger) is not None


# Declining


def test_a_decline_is_an_answer_and_is_written_down_before_it_is_given(tmp_path: Path) -> None:
    bob = Bob(notes=Records(tmp_path))
    committed = bob.committed(1)
    standing = bob.answering.decline(4, ledger=bob.ledger)
    assert standing is not None
    answer = answers.read(standing.answer, charter=AGREED)
    assert (answer.round, answer.committed) == (4, (bob.told(committed),))
    assert bob.notes.highest(AGREED.digest) == 4
    bob.notes.close()
    with pytest.raises(RecordsError):
        bob.answering.decline(5, ledger=bob.ledger)
    again = Records(tmp_path)
    assert again.highest(AGREED.digest) == 4
    again.close()


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_round_that_is_no_later_than_all_that_was_answered_has_no_answer(number: int) -> None:
    bob = Bob()
    bob.committed(3, OTHERS)
    bob.answering.decline(4, ledger=bob.ledger)
    before = bob.notes._count
    assert bob.answering.decline(number, ledger=bob.ledger) is None
    assert bob.notes._count == before


def test_a_round_that_was_committed_is_not_answered_any_more() -> None:
    bob = Bob()
    bob.committed(3, OTHERS)
    assert bob.answering.decline(3, ledger=bob.ledger) is None


# What answers tell it


def test_answers_of_enough_owners_show_that_a_cohort_is_void() -> None:
    """Of three owners and a floor of two: two of them."""
    bob = Bob()
    consented, committed = bob.consented(1), bob.committed(2)
    assert bob.answering.learn(bob.shown(3, ["alice"]), ledger=bob.ledger) == 0
    assert not bob.is_void(consented)
    assert bob.answering.learn(bob.shown(3, OTHERS), ledger=bob.ledger) == 2
    assert bob.is_void(consented)
    assert bob.is_void(committed)
    assert bob.notes.spent("#mri") == 0
    assert bob.answering.learn(bob.shown(3, OTHERS), ledger=bob.ledger) == 0  # it is known


def test_what_is_void_is_so_for_good(tmp_path: Path) -> None:
    bob = Bob(notes=Records(tmp_path))
    entry = bob.consented(1)
    bob.answering.learn(bob.shown(2, OTHERS), ledger=bob.ledger)
    bob.notes.close()
    again = Records(tmp_path)
    assert again.is_void(AGREED.digest, entry.cohort)
    assert again.spent("#mri") == 0
    again.close()


def test_answers_that_list_a_cohort_or_are_to_earlier_rounds_show_nothing() -> None:
    bob = Bob()
    entry = bob.committed(2)
    listed = bob.shown(3, ["alice"], listed=[bob.told(entry)])
    assert bob.answering.learn([*listed, *bob.shown(3, ["chuck"])], ledger=bob.ledger) == 0
    assert bob.answering.learn(bob.shown(2, OTHERS), ledger=bob.ledger) == 0
    twice = [*bob.shown(3, ["chuck"]), *bob.shown(4, ["chuck"])]
    assert bob.answering.learn(twice, ledger=bob.ledger) == 0
    assert not bob.is_void(entry)


def test_what_was_released_is_not_void() -> None:
    bob = Bob()
    ledger = chains.chain(1)
    digest = cohort_digest(ledger.receipts[0].record.cohort)
    bob.notes.consent(Consented(AGREED.digest, 1, digest, chains.START, ids_of(TWO), "#mri"))
    # They know of the release, and so do not list it; bob does not know it yet.
    assert bob.answering.learn(bob.shown(2, OTHERS, at=ledger), ledger=bob.ledger) == 0
    bob.ledger = ledger
    assert bob.answering.learn(bob.shown(2, OTHERS), ledger=bob.ledger) == 0
    assert not bob.notes.is_void(AGREED.digest, digest)


def test_answers_under_another_charter_show_nothing() -> None:
    bob = Bob()
    entry = bob.consented(1)
    other = Bob(agreed=chains.charter(serial=2, supersedes=AGREED.digest))
    assert bob.answering.learn(other.shown(2, OTHERS), ledger=bob.ledger) == 0
    assert not bob.is_void(entry)


def test_a_cohort_of_another_charter_is_not_freed_by_this_one_s_answers() -> None:
    bob = Bob()
    entry = bob.consented(1, under=ELSEWHERE)
    assert bob.answering.learn(bob.shown(2, OTHERS), ledger=bob.ledger) == 0
    assert not bob.notes.is_void(ELSEWHERE, entry.cohort)
    assert bob.notes.spent("#mri") == 1


def test_the_owner_s_own_answer_counts_as_one() -> None:
    bob = Bob()
    entry = bob.consented(1)
    own = bob.standing(2).answer
    assert bob.answering.learn([own, *bob.shown(2, ["alice"])], ledger=bob.ledger) == 1
    assert bob.is_void(entry)
