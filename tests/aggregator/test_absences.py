"""Why owners are out of a round: told once, together, and in words that do nothing to a terminal."""

from __future__ import annotations

from typing import Any

from cloister.aggregator.absences import Absences
from cloister.aggregator.events import Note, Tell
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers
from cloister.wire import rounds as w
from cloister.wire.limits import REASON_CHARS
from tests.support.owners import agree, key_of

AWAY = "it was not there when the round began"


def connected(*names: str) -> tuple[Absences, ConnectedMembers]:
    charter, peers = agree(auditors=("dora",)), ConnectedMembers()
    for name in names:
        member = charter.member(key_of(name))
        assert member is not None
        peers.all[member.key] = ConnectedMember(member, joined=True, ready=True)
    return Absences(charter, peers=peers), peers


def told(peers: ConnectedMembers) -> tuple[list[Any], list[str]]:
    """The messages since the last time, with whom they are for, and the operator's lines."""
    effects = peers.effects()
    said = [(each.member, each.message) for each in effects if isinstance(each, Tell)]
    return said, [each.text for each in effects if isinstance(each, Note)]


def test_those_who_are_not_there_are_told_in_one_message() -> None:
    """Many owners may be away, and a member that has too much in its outbox is dropped."""
    absences, peers = connected("alice", "rosa", "dora")
    absences.begin(7, researchers={key_of("rosa")})
    out = w.Out(7, {key_of("bob"): AWAY, key_of("chuck"): AWAY})
    assert told(peers) == (
        [(key_of("rosa"), out)],
        [f"round 7 is without bob: {AWAY}", f"round 7 is without chuck: {AWAY}"],
    )
    assert dict(absences.why) == out.why


def test_nobody_is_told_but_the_researchers_whose_job_it_is_and_who_are_there() -> None:
    absences, peers = connected("alice", "bob", "chuck", "rosa", "dora")
    researchers = set[str]()
    absences.begin(1, researchers=researchers)
    absences.note({key_of("bob"): "no"})
    assert told(peers) == ([], ["round 1 is without bob: no"])
    researchers.add(key_of("rosa"))  # it may come later
    absences.note({key_of("chuck"): "no"})
    assert told(peers)[0] == [(key_of("rosa"), w.Out(1, {key_of("chuck"): "no"}))]
    absences.tell(peers.all[key_of("rosa")])
    assert told(peers)[0] == [(key_of("rosa"), w.Out(1, {key_of("bob"): "no", key_of("chuck"): "no"}))]


def test_the_first_reason_counts_and_each_round_has_its_own() -> None:
    absences, peers = connected("alice", "bob", "chuck", "rosa")
    rosa = {key_of("rosa")}
    absences.note({key_of("bob"): "before the first round"})
    absences.begin(1, researchers=rosa)
    absences.tell(peers.all[key_of("rosa")])
    assert told(peers) == ([], [])
    absences.note({key_of("bob"): "it declined: no"})
    absences.note({key_of("bob"): "its connection was lost", key_of("chuck"): "its connection was lost"})
    assert dict(absences.why) == {key_of("bob"): "it declined: no", key_of("chuck"): "its connection was lost"}
    assert [message.why for _, message in told(peers)[0]] == [
        {key_of("bob"): "it declined: no"},
        {key_of("chuck"): "its connection was lost"},
    ]
    absences.begin(2, researchers=rosa)
    assert not absences.why
    absences.note({key_of("bob"): "no"})
    absences.clear()
    assert not absences.why
    told(peers)
    absences.note({key_of("bob"): "no"})
    assert told(peers) == ([], [])


def test_an_owners_words_are_one_line_of_a_bounded_length() -> None:
    absences, peers = connected("alice", "bob", "chuck", "rosa")
    absences.begin(1, researchers={key_of("rosa")})
    absences.note({key_of("bob"): "\x1b[2J\nround 1 is released\u202e" + "x" * 5000})
    [(_, message)], [line] = told(peers)
    assert message.why[key_of("bob")] == absences.why[key_of("bob")]
    assert message.why[key_of("bob")].startswith(r"\x1b[2J\nround 1 is released\u202ex")
    assert len(message.why[key_of("bob")]) == REASON_CHARS
    assert "\n" not in line
