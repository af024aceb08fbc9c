"""The two times that owners sign, as the aggregator takes it: who counts, once, and for what."""

from __future__ import annotations

import pytest

from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.releasing import Outcome
from cloister.aggregator.signing import Committing, Drafted
from cloister.errors import RoundError
from cloister.ledger.records import commit_to_be_signed, consent_to_be_signed
from cloister.ledger.sync import ModelState
from cloister.wire.rounds import MemberSignature
from tests.support import chains, charters

FOUR = ("alice", "bob", "chuck", "dave")
CHARTER = chains.charter(owners=FOUR)
LEDGER = chains.chain(0, agreed=CHARTER)
PEERS = {owner.name: ConnectedMember(owner) for owner in CHARTER.owners}


def drafted(*names: str) -> Drafted:
    return Drafted(chains.cohort(LEDGER, names, signer=chains.Instance("first").public), until=30.0)


def consent(draft: Drafted, name: str) -> MemberSignature:
    return chains.sign_one(consent_to_be_signed(draft.cohort), charters.key_of(name))


def committing(number: int = 1) -> Committing:
    outcome = Outcome(ModelState(bytes(32), b""), {}, bytes(32))
    return Committing(number, drafted=drafted("alice", "bob"), outcome=outcome, ledger=LEDGER)


def commit(phase: Committing, name: str) -> MemberSignature:
    message = commit_to_be_signed(phase.drafted.cohort, phase.outcome.digest)
    return chains.sign_one(message, charters.key_of(name))


def test_members_consent_each_once() -> None:
    draft = drafted("alice", "bob")
    draft.take(PEERS["bob"], consent(draft, "bob"))
    assert draft.missing == {PEERS["alice"].key}
    for name in ("bob", "chuck"):
        with pytest.raises(RoundError, match="not asked for, or that came already"):
            draft.take(PEERS[name], consent(draft, name))
    draft.take(PEERS["alice"], consent(draft, "alice"))
    assert not draft.missing
    assert [each.member for each in draft.consents] == sorted(PEERS[name].key for name in ("alice", "bob"))


@pytest.mark.parametrize("signer", ["alice", "chuck"])
def test_nobody_signs_for_another(signer: str) -> None:
    draft, phase = drafted("alice", "bob"), committing()
    with pytest.raises(RoundError, match="another's public key"):
        draft.take(PEERS["bob"], consent(draft, signer))
    with pytest.raises(RoundError, match="another's public key"):
        phase.take(PEERS["bob"], commit(phase, signer))
    assert draft.missing == {PEERS["alice"].key, PEERS["bob"].key}
    assert not phase.commits


def test_a_consent_is_no_commit_and_a_commit_no_consent() -> None:
    draft, phase = drafted("alice", "bob"), committing()
    with pytest.raises(RoundError, match="not valid"):
        draft.take(PEERS["bob"], commit(phase, "bob"))
    with pytest.raises(RoundError, match="not valid"):
        phase.take(PEERS["bob"], consent(draft, "bob"))
    with pytest.raises(RoundError, match="of an owner that has refused"):
        phase.take(PEERS["bob"], commit(phase, "bob"))


def test_a_quorum_commits_members_or_not() -> None:
    phase = committing()
    assert phase.to_ask(PEERS.values(), until=30.0) == list(PEERS.values())
    for name in ("chuck", "dave"):
        phase.take(PEERS[name], commit(phase, name))
        assert not phase.complete
    with pytest.raises(RoundError, match="came already"):
        phase.take(PEERS["dave"], commit(phase, "dave"))
    phase.take(PEERS["alice"], commit(phase, "alice"))
    assert phase.complete
    assert [each.member for each in phase.commits] == sorted(PEERS[name].key for name in ("alice", "chuck", "dave"))


def test_each_is_asked_once_on_a_connection_and_none_that_has_answered_a_later_round() -> None:
    phase = committing()
    late = ConnectedMember(PEERS["dave"].member, answered=2)
    assert phase.to_ask([PEERS["alice"], late], until=30.0) == [PEERS["alice"]]
    assert phase.refused == {late.key}
    assert phase.to_ask([PEERS["alice"], late], until=30.0) == []
    again = ConnectedMember(PEERS["alice"].member)
    assert phase.to_ask([again], until=40.0) == [again]
    assert phase.due(now=35.0) == 40.0  # of the connection that is gone nothing is kept
    phase.take(again, commit(phase, "alice"))
    assert phase.to_ask([ConnectedMember(PEERS["alice"].member)], until=50.0) == []


def test_a_round_is_waited_for_until_those_who_answer_could_hold_another() -> None:
    phase = committing()
    there = [PEERS["alice"], PEERS["bob"], PEERS["chuck"]]
    phase.to_ask(there, until=30.0)
    phase.take(PEERS["alice"], commit(phase, "alice"))
    assert not phase.hopeless(there, now=1e9)  # alice alone answers: nobody could hold another
    assert phase.short_of(there) == 0
    phase.refused.add(PEERS["bob"].key)
    assert not phase.hopeless(there, now=10.0 + 30.0)  # chuck is silent
    assert phase.short_of(there) == 1
    phase.take(PEERS["chuck"], commit(phase, "chuck"))
    assert phase.hopeless(there, now=10.0)
