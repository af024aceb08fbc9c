"""How a study stands, asked over TLS: by any member, on connections beside the one on which it takes part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.enclave import status
from cloister.errors import JobError, PeerRefusedError, StudyError, UnreachableError
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.connection import Connection
from cloister.net.handshake_client import greet
from cloister.net.policy import AttestationPolicy
from cloister.study.status import StudyStatus, ask
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from tests.support.attested import goodbye
from tests.support.lines import Line, Table
from tests.support.tls import SOON


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    found = Table(tmp_path)
    with found.serving():
        yield found


def attested(table: Table, name: str) -> AttestedConnection:
    policy = AttestationPolicy(charter=table.charter, accept_simulated=True)
    return attest_peer(table.address, policy=policy, identity=table.identities[name], at=table.at, within_s=SOON)


@contextmanager
def asking(table: Table, name: str) -> Iterator[Connection]:
    """A connection on which questions are asked by hand."""
    with attested(table, name) as found:
        greet(found.connection, purpose="status", software="test", wait_s=SOON)
        yield found.connection


def answer(connection: Connection, message: Any) -> Any:
    connection.send(Kind.ROUND, message)
    return connection.receive(wait_s=SOON).message()


def asked(table: Table, name: str, message: w.Ask | w.Stop | None = None) -> StudyStatus:
    with attested(table, name) as found:
        return ask(found, message or w.Ask(), charter=table.charter)


@contextmanager
def waiting(table: Table) -> Iterator[Line]:
    """A job that waits for owners, and its researcher's connection."""
    line = table.dial("rosa")
    line.join(table.rosa)
    table.submit(line)
    line.until(w.Waiting)
    try:
        yield line
    finally:
        line.close()


def test_each_member_may_ask_and_its_own_conversation_goes_on(table: Table) -> None:
    assert asked(table, "alice").job == ""
    with waiting(table) as line:
        for name in ("alice", "rosa"):
            found = asked(table, name)
            assert (found.job, found.rounds, found.phase) == ("train", 3, "between rounds")
            assert found.waits == "0 of the owners are there, and 2 have to be"
            assert [str(each).split(maxsplit=1) for each in found.owners] == [
                [each, "not connected"] for each in ("alice", "bob", "chuck")
            ]
        line.say(w.Stop())  # it has not lost its place to the one that asked
        assert line.until(w.Finished).text == "stopped by the researcher"


def test_who_is_no_member_is_told_nothing(table: Table) -> None:
    with attested(table, "mallory") as found, pytest.raises(StudyError, match="only members of its charter"):
        ask(found, w.Ask(), charter=table.charter)


def test_the_researcher_stops_its_job_from_elsewhere(table: Table) -> None:
    with waiting(table) as line:
        assert asked(table, "rosa", w.Stop()).job == ""
        assert line.until(w.Finished).text == "stopped by rosa"
    with pytest.raises(JobError, match="no job that this member could stop"):
        asked(table, "rosa", w.Stop())


def test_an_owner_stops_nothing_and_may_go_on_asking(table: Table) -> None:
    with waiting(table), asking(table, "alice") as connection:
        refusal = answer(connection, w.Stop())
        assert (type(refusal), refusal.round, refusal.code) == (w.Refused, 0, "job")
        assert answer(connection, w.Ask()).job == "train"


def test_many_questions_end_a_connection(table: Table) -> None:
    with asking(table, "alice") as connection:
        for _ in range(status._QUESTIONS):
            assert isinstance(answer(connection, w.Ask()), w.Status)
        assert "16 questions" in goodbye(connection).text


def test_silence_ends_a_connection(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_IDLE_S", 0.05)
    with asking(table, "alice") as connection:
        assert "nothing was asked" in goodbye(connection).text


@pytest.mark.parametrize(
    ("message", "body"),
    [(w.Join(0, b"", 0, False), b""), (w.Submit(1), b"x"), (w.Ask(), b"x"), (w.Contribution(1, bytes(32)), b"x" * 44)],
    ids=lambda each: type(each).__name__,
)
def test_nothing_else_is_said_there_and_no_body_is_read(table: Table, message: Any, body: bytes) -> None:
    with asking(table, "rosa") as connection:
        connection.send_raw(Kind.ROUND, encode(message), len(body))
        refusal = goodbye(connection)
        assert (refusal.code, "Ask and Stop are said" in refusal.text) == ("protocol", True)
    assert asked(table, "rosa").job == ""


def test_garbage_and_other_kinds(table: Table) -> None:
    for kind, header in ((Kind.ROUND, b"\xc1"), (Kind.CHALLENGE, b"\x90"), (Kind.BATCH, b"\x90")):
        with asking(table, "rosa") as connection:
            connection.send_raw(kind, header, 0)
            assert goodbye(connection).code == "protocol"


def test_one_member_asks_four_times_at_once_and_the_fifth_is_told_so(table: Table) -> None:
    """And whoever takes part keeps its place."""
    with waiting(table) as line:
        with ExitStack() as held:
            connections = [held.enter_context(asking(table, "rosa")) for _ in range(3)]
            with pytest.raises(UnreachableError, match="as many connections as it may have"):
                attested(table, "rosa")
            found: list[Any] = []
            threads = [
                threading.Thread(target=lambda each=each: found.append(answer(each, w.Ask()))) for each in connections
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SOON)
            assert [each.job for each in found] == ["train"] * 3
        line.say(w.Stop())
        assert line.until(w.Finished)


def test_a_purpose_that_an_aggregator_has_not(table: Table) -> None:
    with attested(table, "rosa") as found, pytest.raises(PeerRefusedError, match="closed to interactive use"):
        greet(found.connection, purpose="session", software="test", wait_s=SOON)
