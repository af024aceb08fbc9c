"""Where members' connections meet: what waits for one of them has an end, and one connection of each takes part."""

from __future__ import annotations

import pytest

from cloister.enclave import hub
from cloister.enclave.hub import Hub, MemberConnection, Outgoing
from cloister.net.proving import Instance
from cloister.wire import rounds as w
from tests.support.owners import agree, key_of
from tests.support.rounds import ATTESTER


def a_hub() -> Hub:
    charter = agree()
    instance = Instance(role="aggregator", attester=ATTESTER, charter=charter.digest, name=charter.addresses[0])
    return Hub(charter, instance=instance, collateral=None, upload_s=10.0)


def entered(meeting: Hub, name: str, interrupted: list[str]) -> MemberConnection:
    connection = meeting.enter(key_of(name), interrupt=lambda: interrupted.append(name))
    meeting.say(connection, w.Join(0, b"", 0, False), None)
    return connection


@pytest.mark.parametrize(("nbytes", "most"), [(0, hub._MESSAGES), (hub._SMALL_BYTES + 1, hub._BODIES)])
def test_so_much_may_wait_for_a_member_and_no_more(nbytes: int, most: int) -> None:
    """Small messages many, and models a few: each keeps one in memory."""
    connection = MemberConnection("bob", interrupt=lambda: None)
    parcel = Outgoing(w.Stop(), (memoryview(bytes(nbytes)),))
    connection.outbox.extend([parcel] * most)
    assert not connection.crowded
    connection.outbox.append(parcel)
    assert connection.crowded


def test_one_that_does_not_read_is_let_go_and_heard_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_MESSAGES", 3)
    meeting, interrupted = a_hub(), list[str]()
    rosa = entered(meeting, "rosa", interrupted)
    rosa.busy = True  # its thread is sending, to somebody who does not read
    while not rosa.ending:
        meeting.say(rosa, w.Stop(), None)  # each is refused, which it is told
        assert len(rosa.outbox) <= 4
    assert rosa.ending == "it does not read what it is told"
    assert interrupted == ["rosa"]
    meeting.say(rosa, w.Stop(), None)
    assert len(rosa.outbox) == 4
    assert [type(each.message) for each in meeting.take(entered(meeting, "alice", interrupted))] == [w.Chain]


def test_of_one_members_connections_the_newest_takes_part() -> None:
    meeting, interrupted = a_hub(), list[str]()
    first = entered(meeting, "bob", interrupted)
    meeting.take(first)
    second = entered(meeting, "bob", interrupted)
    assert first.ending == "the same member has connected again"
    meeting.say(first, w.Stop(), None)
    assert meeting.take(first) == []
    meeting.leave(first)  # its thread ends later: the other's place is not given up for it
    meeting.take(second)
    meeting.say(second, w.Stop(), None)
    assert [type(each.message) for each in meeting.take(second)] == [w.Refused]


def test_noise_is_of_bytes_that_are_others_each_time_and_at_each_instance() -> None:
    """Instances of one snapshot too: whoever had two noises of one kind would subtract them."""
    sources = [each._rounds._course._own.random for each in (a_hub(), a_hub())]
    drawn = {source(32) for source in sources for _ in range(2)}
    assert len(drawn) == 4
    assert {len(each) for each in drawn} == {32}
