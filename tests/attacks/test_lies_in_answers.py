"""Attack: lie in an answer, so that a cohort counts as void that can be released, or is held that is void.

What is void costs no budget and binds nobody. So whoever makes an owner believe it of a cohort that comes out after all
has one release for nothing, and another cohort beside it that differs by one owner.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cloister.charter import keys
from cloister.ledger import answers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Ledger, quorum, votes_to_void
from cloister.ledger.records import cohort_digest, encode
from cloister.wire.rounds import SignedAnswer
from tests.support import chains, charters

FOUR = ("alice", "bob", "chuck", "dave")
CHARTER = chains.charter(owners=FOUR, floor=3)
"""One of the four may lie. Three commits release a round; three answers without it make a cohort void."""


@pytest.fixture
def ledger() -> Ledger:
    return chains.chain(0, agreed=CHARTER)


def cohort_of(ledger: Ledger) -> tuple[bytes, Committed]:
    """A cohort of all four, and what an answer says of it."""
    encoded = encode(chains.cohort(ledger, FOUR, signer=chains.Instance("first").public))
    members = answers.mask([charters.fingerprint_of(name) for name in FOUR], charter=CHARTER)
    return encoded, Committed(1, cohort_digest(encoded), ledger.model or b"", members)


def answer(name: str, ledger: Ledger, *, number: int = 2, lists: Sequence[Committed] = ()) -> SignedAnswer:
    newest = ledger.settled()
    said = Answer("cloister answer 1", CHARTER.digest, number, newest.sequence, newest.head, tuple(lists))
    return answers.sign(said, key=charters.key_of(name))


def release(ledger: Ledger, commits: Sequence[str]) -> None:
    """The operator has all consents, and these commits."""
    instance = chains.Instance("first")
    encoded, _ = cohort_of(ledger)
    given = chains.commits(encoded, chains.outcome(ledger), commits)
    ledger.append(chains.round_record(ledger, FOUR, instance=instance, commits=given))


def is_void(ledger: Ledger, *shown: SignedAnswer) -> bool:
    _, entry = cohort_of(chains.chain(0, agreed=CHARTER))
    return bool(answers.void([entry], answers=shown, ledger=ledger))


def test_one_that_committed_and_does_not_say_so(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice and bob committed, and so did dave, who says that he did not; chuck did not. The operator has three."""
    shown = [answer("chuck", ledger), answer("dave", ledger)]
    assert votes_to_void(CHARTER) == quorum(CHARTER) == 3
    assert not is_void(ledger, *shown)
    monkeypatch.setattr(answers, "votes_to_void", lambda charter: 2)
    assert is_void(ledger, *shown)
    release(ledger, ["alice", "bob", "dave"])  # and it comes out


def test_one_that_answers_for_others(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dave signs in the names of bob and chuck."""
    forged = []
    for name in ("bob", "chuck"):
        honest, key = answer(name, ledger), charters.key_of("dave")
        signature = keys.sign(answers._to_be_signed(honest.answer), key=key)
        own = answer("dave", ledger).signature
        by_dave = answers.MemberSignature(honest.signature.member, honest.signature.public_key, signature)
        forged += [SignedAnswer(honest.answer, by_dave), SignedAnswer(honest.answer, own)]
    shown = [answer("dave", ledger), *forged]
    assert not is_void(ledger, *shown)
    monkeypatch.setattr(answers.keys, "verify", lambda *given, **more: None)
    assert is_void(ledger, *shown)


def test_one_that_answers_again_and_again(ledger: Ledger) -> None:
    assert not is_void(ledger, *(answer("dave", ledger, number=number) for number in range(2, 9)))


def test_answers_to_the_same_round_show_nothing(ledger: Ledger) -> None:
    """Whoever has answered round 1 may commit it a moment later."""
    shown = [answer(name, ledger, number=1) for name in FOUR]
    assert not is_void(ledger, *shown)
    release(ledger, ["alice", "bob", "chuck"])


def test_answers_of_those_who_know_that_it_was_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """They list it no more. Alice has not heard of the release, and must not take that for what it is not."""
    behind, ahead = chains.chain(0, agreed=CHARTER), chains.chain(0, agreed=CHARTER)
    release(ahead, ["bob", "chuck", "dave"])
    shown = [answer(name, ahead) for name in ("bob", "chuck", "dave")]
    assert not is_void(behind, *shown)
    assert not is_void(ahead, *shown)
    monkeypatch.setattr(Ledger, "passed", lambda self, sequence, head: True)
    assert is_void(behind, *shown)


def test_an_entry_of_the_same_digest_with_other_members_holds_nothing(ledger: Ledger) -> None:
    """Else one liar would keep every budget spent, without having committed anything."""
    _, entry = cohort_of(ledger)
    lie = Committed(entry.round, entry.cohort, entry.model, answers.mask([], charter=CHARTER))
    assert is_void(ledger, answer("alice", ledger), answer("chuck", ledger), answer("dave", ledger, lists=[lie]))
    assert not is_void(ledger, answer("alice", ledger), answer("chuck", ledger), answer("dave", ledger, lists=[entry]))
    assert is_void(ledger, *(answer(name, ledger) for name in FOUR[:3]), answer("dave", ledger, lists=[entry]))


def test_answers_under_another_charter(ledger: Ledger) -> None:
    other = chains.charter(owners=FOUR, floor=3, serial=2, supersedes=CHARTER.digest)
    said = [Answer("cloister answer 1", other.digest, 9, 0, b"", ())] * len(FOUR)
    shown = [answers.sign(each, key=charters.key_of(name)) for each, name in zip(said, FOUR, strict=True)]
    assert not is_void(ledger, *shown)
