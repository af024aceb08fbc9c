"""Attack: be a member, and send without end, or never read: Join, Chain, Submit and all the rest, as fast as they go.

What is refused is counted, and the sixteenth refusal ends the connection; a body is read only where it was asked for,
and what waits for a member who does not read has an end too. The other members notice nothing.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloister.aggregator.protocol import REFUSALS
from cloister.enclave.hub import _MESSAGES, Hub, MemberConnection
from cloister.errors import CloisterError, NetworkError, UnreachableError
from cloister.ledger import job as jobs
from cloister.net.proving import Instance
from cloister.wire import rounds as w
from cloister.wire.limits import LIST_ITEMS, RECORD_BYTES
from tests.attacks.gathering import Gathering
from tests.enclave.test_server import by_hand, heard_out, researching, seated
from tests.support.lines import Line, Table
from tests.support.owners import agree, first_model, key_of, make_job
from tests.support.rounds import ATTESTER, fill
from tests.support.tls import SOON, hosting, make_identity

SIGNATURE = w.MemberSignature("sha256:" + "0" * 64, bytes(256), bytes(128))
STANDING = w.Standing(w.SignedAnswer(bytes(4096), SIGNATURE))
FLOODS: dict[str, Any] = {
    "joins": w.Join(0, b"", 0, False),
    "other joins": w.Join(3, bytes(32), (1 << 53) - 1, True),
    "chains": w.Chain(1, ()),
    "consents": w.Consent(1, bytes(32), SIGNATURE),
    "commits": w.Commit(1, SIGNATURE),
    "promises": w.Ready(1, 1 << 52, 1.0, 0.0, {"loss": 1.0}, bytes(32), STANDING),
    "excuses": w.Declined(1, "x" * 500),
    "submissions without a job": w.Submit(8),
    "stops": w.Stop(),
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("name", ["bob", "rosa"])
def test_a_flood_ends_after_a_few_refusals(name: str, flood: str) -> None:
    study = Gathering(agreed={"rounds": 1})
    study.join(name)
    sent = 0
    while key_of(name) in study.instance.heard:
        study.instance.say(name, FLOODS[flood])
        sent += 1
        assert sent <= REFUSALS
    study.join("alice", "chuck", *(["rosa"] if name == "bob" else []))
    if name == "bob":
        study.submit()
        study.settle()
        study.check(("alice", "chuck"))


def test_a_chain_that_is_far_too_long_is_not_read() -> None:
    """It says that it has a longer chain, is asked for it, and offers a thousand times what may come at once."""
    study = Gathering(agreed={"rounds": 1})
    study.instance.connect("bob")
    study.instance.say("bob", w.Join(5, bytes(32), 0, False))
    assert study.instance.read("bob") == [w.HandOver(0)]
    huge = w.Chain(1, (RECORD_BYTES,) * LIST_ITEMS)
    assert study.instance.begin("bob", huge, RECORD_BYTES * LIST_ITEMS) is None
    study.instance.disconnect("bob")
    study.join("alice", "chuck", "rosa")
    study.submit()
    study.settle()
    study.check(("alice", "chuck"))


def test_one_that_promises_a_chain_holds_up_nobody_for_long() -> None:
    study = Gathering(agreed={"rounds": 1})
    del study.parties["bob"]  # it never answers
    study.instance.connect("bob")
    study.instance.say("bob", w.Join(5, bytes(32), 0, False))
    study.join("alice", "chuck", "rosa")
    study.submit()
    study.settle()
    study.check(("alice", "chuck"))
    study.instance.tick()
    assert [each for each, _ in study.instance.dropped] == [key_of("bob")]


@pytest.mark.slow
def test_one_that_never_reads_is_let_go() -> None:
    """Each submission of the job that runs is answered. What nobody reads is kept up to a limit."""
    charter = agree()
    instance = Instance(role="aggregator", attester=ATTESTER, charter=charter.digest, name=charter.addresses[0])
    meeting = Hub(charter, instance=instance, collateral=None, upload_s=10.0)
    ended: list[str] = []
    rosa = meeting.enter(key_of("rosa"), interrupt=lambda: ended.append("rosa"))
    meeting.say(rosa, w.Join(0, b"", 0, False), None)
    sent = 0
    while not rosa.ending:
        submit(meeting, rosa)
        sent += 1
        assert len(rosa.outbox) <= _MESSAGES + 1
        assert sent <= 2 * _MESSAGES
    assert rosa.ending == "it does not read what it is told"
    alice = meeting.enter(key_of("alice"), interrupt=lambda: ended.append("alice"))
    meeting.say(alice, w.Join(0, b"", 0, False), None)
    assert [type(each.message) for each in meeting.take(alice)] == [w.Chain]
    submit(meeting, rosa)  # what it still says is heard by nobody
    assert len(rosa.outbox) <= _MESSAGES + 1


def submit(meeting: Hub, seat: MemberConnection) -> None:
    data = jobs.encode(make_job(agree()))
    message, body = w.Submit(len(data)), data + first_model().tobytes()
    room = meeting.expect(seat, message, body_bytes=len(body))
    if room is not None:
        fill(room, body)
    meeting.say(seat, message, room)


def test_floods_over_tls_beside_a_study(tmp_path: Path) -> None:
    table = Table(tmp_path, agreed={"rounds": 2})
    with table.serving(), seated(table, "alice", "chuck"):
        flooding = [table.dial("bob") for _ in range(3)]  # each takes the place of the one before
        with suppress(NetworkError):
            for message in [*FLOODS.values()] * 20:
                flooding[-1].say(message)
        assert ends(flooding[-1])
        line = researching(table)
        table.submit(line)
        assert heard_out(table, line).done == 2
        for each in (*flooding, line):
            each.close()
    assert table.rosa.model[1].startswith(by_hand(table, ("alice", "chuck"), ("alice", "chuck")))


def test_one_that_takes_all_connections_leaves_the_others_theirs(tmp_path: Path) -> None:
    """One member takes all that it can get, and says nothing on them; another gets in as often as it may."""
    bob, carol, dave = (make_identity(tmp_path, name) for name in ("bob", "carol", "dave"))
    with hosting(bob, carol, dave, own=2, common=5) as host:
        for _ in range(2 + 5):
            host.session(carol)
        for _ in range(3):
            with pytest.raises(UnreachableError, match="as many connections as it may have"):
                host.session(carol)
        for _ in range(2):
            host.session(dave)
    assert Counter(host.seen) == {carol.fingerprint: 7, dave.fingerprint: 2}


@pytest.mark.slow
def test_one_that_comes_back_at_once_leaves_the_others_theirs(tmp_path: Path) -> None:
    """More connections than may be refused in words, none of which it closes."""
    bob, carol, dave = (make_identity(tmp_path, name) for name in ("bob", "carol", "dave"))
    with hosting(bob, carol, dave, own=1, common=0) as host:
        for _ in range(40):
            host.dial(carol, within_s=SOON)
        host.session(dave)
    assert Counter(host.seen) == {carol.fingerprint: 1, dave.fingerprint: 1}


def ends(line: Line) -> bool:
    """Whether it is ended from the other side, after no more than was earned."""
    heard = 0
    try:
        while line.hear():
            heard += 1
            assert heard <= 2 * REFUSALS
    except CloisterError:  # a refusal, which is no message of a study, or nothing at all
        return True
    return False
