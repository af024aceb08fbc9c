"""Attack: run the machine that the aggregator is on, and drop, hold back, reorder, change or repeat what passes by.

All that passes is TLS 1.3 from member to enclave. Its records are numbered and sealed, so whoever touches one ends the
connection; and a recorded connection cannot be begun again. The member dials anew, and what was not released is trained
again: what an operator can do to a study is to keep it from going on.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cloister.errors import CloisterError, NetworkError
from cloister.wire import rounds as w
from cloister.wire.peers import parse_address
from tests.enclave.test_server import by_hand, heard_out, researching
from tests.support.lines import Line, Table
from tests.support.tls import SOON, rest

Meddle = Callable[[list[bytes]], list[bytes]]
"""What to pass on now of the records that are held back; it takes them out of the list."""

HEAD = 5
"""Of a TLS record: its type, a version and its length (RFC 8446, section 5.1)."""


def passed(held: list[bytes]) -> list[bytes]:
    found = held[:]
    held.clear()
    return found


class Relay:
    """Passes TLS records on, until a test sets what is to be done to those of members, or of the aggregator."""

    def __init__(self, at: str) -> None:
        self.of_members: Meddle = passed
        self.of_aggregator: Meddle = passed
        self.recorded = b""
        """All that members have sent."""
        self._beyond = parse_address(at)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(SOON)
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SOON)
            assert not thread.is_alive()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                member, _ = self._listening.accept()
                beyond = socket.create_connection((self._beyond.host, self._beyond.port), timeout=SOON)
                self._sockets += [member, beyond]
                for ends in ((member, beyond, True), (beyond, member, False)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=ends))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket, of_members: bool) -> None:
        held: list[bytes] = []
        with suppress(OSError), source.makefile("rb") as stream:
            while len(head := stream.read(HEAD)) == HEAD:
                record = head + stream.read(int.from_bytes(head[3:], "big"))
                if of_members:
                    self.recorded += record
                held.append(record)
                for each in (self.of_members if of_members else self.of_aggregator)(held):
                    target.sendall(each)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relaying(at: str) -> Iterator[Relay]:
    relay = Relay(at)
    try:
        yield relay
    finally:
        relay.close()


def dropped(held: list[bytes]) -> list[bytes]:
    """The first of two is lost."""
    if len(held) < 2:
        return []
    del held[0]
    return passed(held)


def reordered(held: list[bytes]) -> list[bytes]:
    """Two change places."""
    if len(held) < 2:
        return []
    held.reverse()
    return passed(held)


def repeated(held: list[bytes]) -> list[bytes]:
    """Each comes twice."""
    return [each for each in passed(held) for _ in range(2)]


def changed(held: list[bytes]) -> list[bytes]:
    """A bit of each is another."""
    return [each[:-1] + bytes([each[-1] ^ 1]) for each in passed(held)]


def added(held: list[bytes]) -> list[bytes]:
    """A record of the operator's own comes before each."""
    return [each for own in passed(held) for each in (b"\x17\x03\x03\x00\x20" + bytes(32), own)]


MEDDLES = (dropped, reordered, repeated, changed, added)


def through(table: Table, relay: Relay, name: str) -> Line:
    """A member's connection through the relay, which has joined."""
    straight, table.at = table.at, relay.at
    try:
        line = table.dial(name)
    finally:
        table.at = straight
    line.say(table.owners[name].join())
    line.until(w.Chain)
    return line


def answers(line: Line) -> int:
    """How many messages still come, until the connection ends."""
    count = 0
    try:
        while line.hear():
            count += 1
    except (NetworkError, CloisterError):
        return count


@pytest.mark.slow
@pytest.mark.parametrize("meddle", MEDDLES, ids=lambda each: each.__name__)
def test_records_of_a_member(tmp_path: Path, meddle: Meddle, caplog: pytest.LogCaptureFixture) -> None:
    """Two messages, each of which would be answered. What was touched is not, nor what follows it."""
    caplog.set_level(logging.INFO, logger="cloister")
    table = Table(tmp_path)
    with table.serving(), relaying(table.at) as relay:
        line = through(table, relay, "alice")
        relay.of_members = meddle
        with suppress(NetworkError):
            for _ in range(2):
                line.say(w.Declined(1, "no"))
        assert answers(line) == (1 if meddle is repeated else 0)
        line.close()
    told = sum("refused alice's Declined" in record.getMessage() for record in caplog.records)
    assert told == (1 if meddle is repeated else 0)


@pytest.mark.slow
@pytest.mark.parametrize("meddle", MEDDLES, ids=lambda each: each.__name__)
def test_records_of_the_aggregator(tmp_path: Path, meddle: Meddle) -> None:
    table = Table(tmp_path)
    with table.serving(), relaying(table.at) as relay:
        line = through(table, relay, "alice")
        relay.of_aggregator = meddle
        for _ in range(2):
            line.say(w.Declined(1, "no"))
        assert answers(line) == (1 if meddle is repeated else 0)
        line.close()


def test_a_recorded_connection_cannot_be_begun_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cloister")
    table = Table(tmp_path)
    with table.serving(), relaying(table.at) as relay:
        through(table, relay, "alice").close()
        address = parse_address(table.at)
        with socket.create_connection((address.host, address.port), timeout=SOON) as again:
            again.sendall(relay.recorded)
            rest(again)
    assert sum("alice is there" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.slow
def test_a_study_goes_on_once_the_operator_lets_it(tmp_path: Path) -> None:
    """What alice says in a round is changed on the way: her connection ends, and the rounds go on without her."""
    table = Table(tmp_path, agreed={"rounds": 2})
    owner = table.owners["alice"]
    with table.serving(), relaying(table.at) as relay:
        lines = {"alice": through(table, relay, "alice")}
        for name in ("bob", "chuck"):
            lines[name] = table.dial(name)
            lines[name].say(table.owners[name].join())
            lines[name].until(w.Chain)
        rosa = researching(table)
        table.submit(rosa)

        for name in table.owners:
            play(lines[name], table, name, until=w.Propose)
        relay.of_members = changed
        with suppress(NetworkError):
            play(lines["alice"], table, "alice", until=w.Draft)
        assert answers(lines["alice"]) == 0
        relay.of_members = passed
        for kind in (w.Draft, w.Draft, w.Send, w.Settle):
            for name in ("bob", "chuck"):
                play(lines[name], table, name, until=kind)
        lines["alice"].close()
        threads = [threading.Thread(target=to_the_end, args=(lines[name], table, name)) for name in ("bob", "chuck")]
        for thread in threads:
            thread.start()
        assert heard_out(table, rosa).done == 2
        for line in lines.values():
            line.connection.interrupt()
        for thread in threads:
            thread.join(SOON)
        for line in (*lines.values(), rosa):
            line.close()
    assert owner.ledger.released == 0
    assert table.rosa.model[1].startswith(by_hand(table, ("bob", "chuck"), ("bob", "chuck")))


def play(line: Line, table: Table, name: str, *, until: type) -> None:
    """A member does its part until it has heard a message of this kind, and has answered that too."""
    while True:
        heard = line.hear()
        for said in table.owners[name].answer(heard):
            line.say(*said)
        if isinstance(heard.message, until):
            return


def to_the_end(line: Line, table: Table, name: str) -> None:
    with suppress(NetworkError):
        play(line, table, name, until=w.Finished)  # which owners are not told
