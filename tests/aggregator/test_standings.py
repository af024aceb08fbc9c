"""The owners' answers to a round, as the aggregator takes them."""

from __future__ import annotations

import pytest

from cloister.aggregator import standings as module
from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.standings import Standings
from cloister.errors import RoundError
from cloister.ledger import answers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.cohorts import Bound
from cloister.wire.rounds import SignedAnswer, Standing
from tests.support import chains, charters

FOUR = ("alice", "bob", "chuck", "dave")
CHARTER = chains.charter(owners=FOUR)
LEDGER = chains.chain(1, agreed=CHARTER, names=("alice", "bob", "chuck"))
PEERS = {owner.name: ConnectedMember(owner) for owner in CHARTER.owners}


def answer(name: str, *, number: int = 5, head: bytes | None = None, lists: tuple[Committed, ...] = ()) -> SignedAnswer:
    newest = LEDGER.settled()
    said = Answer("cloister answer 1", CHARTER.digest, number, newest.sequence, head or newest.head, lists)
    return answers.sign(said, key=charters.key_of(name))


def committed(number: int, *names: str, model: bytes | None = None) -> Committed:
    members = answers.mask([charters.fingerprint_of(name) for name in names], charter=CHARTER)
    return Committed(number, chains.digest(number, *names), model or LEDGER.model or b"", members)


def members(*names: str) -> frozenset[str]:
    return frozenset(charters.fingerprint_of(name) for name in names)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer("alice"), "another owner's, or to another round"),
        (answer("bob", number=4), "another owner's, or to another round"),
        (answer("bob", head=bytes(32)), "not known here"),
        (SignedAnswer(b"", answer("bob").signature), "not its owner's"),
    ],
    ids=["another's", "another round", "another chain", "unsigned"],
)
def test_what_does_not_count(said: SignedAnswer, why: str) -> None:
    standings = Standings(5, ledger=LEDGER)
    with pytest.raises(RoundError, match=why):
        standings.take(PEERS["bob"], Standing(said))
    assert standings.answers == ()


def test_who_wants_to_see_the_answers() -> None:
    standings = Standings(5, ledger=LEDGER)
    standings.take(PEERS["bob"], Standing(answer("bob"), open=True))
    standings.take(PEERS["alice"], Standing(answer("alice")))
    # who says nothing may have too much to say: chuck and dave
    assert [name for name, peer in PEERS.items() if not standings.wants_answers(peer)] == ["alice"]
    assert [each.answer for each in standings.answers] == [answer("bob").answer, answer("alice").answer]


def test_answers_come_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    standings = Standings(5, ledger=LEDGER)
    for name in FOUR:
        standings.take(PEERS[name], Standing(answer(name)))
    assert list(standings.in_messages) == [standings.answers]
    for most, parts in ((2 * len(standings.answers[0].answer), [2, 2]), (1, [1, 1, 1, 1])):
        monkeypatch.setattr(module, "ANSWERS_BYTES", most)
        assert [len(part) for part in standings.in_messages] == parts


def test_what_binds_an_owner() -> None:
    standings = Standings(5, ledger=LEDGER, asked=FOUR[:3])
    on_model, before = committed(4, "alice", "bob"), committed(3, "bob", "chuck", model=bytes(32))
    elsewhere = (tuple(sorted(members("alice", "dave"))),)
    standings.take(PEERS["alice"], Standing(answer("alice", lists=(on_model, before))))
    standings.take(PEERS["bob"], Standing(answer("bob", lists=(on_model,)), elsewhere=elsewhere))
    found = standings.bound(PEERS.values())
    assert found == {
        PEERS["alice"].key: Bound(frozenset({members("alice", "bob")})),
        PEERS["bob"].key: Bound(frozenset({members("alice", "bob")}), frozenset({members("alice", "dave")})),
        PEERS["dave"].key: Bound(
            frozenset({members("alice", "bob")})
        ),  # it came since; chuck was asked, and was silent
    }


def test_what_is_void_binds_nobody() -> None:
    standings, entry = Standings(5, ledger=LEDGER), committed(4, "alice", "bob")
    standings.take(PEERS["alice"], Standing(answer("alice", lists=(entry,))))
    for name in ("bob", "chuck"):
        assert standings.bound([PEERS["alice"]])[PEERS["alice"].key].committed
        standings.take(PEERS[name], Standing(answer(name)))
    assert not standings.bound([PEERS["alice"]])[PEERS["alice"].key].committed


def test_an_owner_that_has_answered_a_later_round_commits_none() -> None:
    late = ConnectedMember(PEERS["dave"].member, answered=6)
    assert late.key not in Standings(5, ledger=LEDGER).bound([late])
