"""The sessions of a node: their places, their limits of time, and what their owner sees; executors played."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping

import pytest

from cloister.errors import ConnectionLostError, CpuLimitError, PutOffError, SessionEndedError, UnreachableError
from cloister.net.connection import Connection
from cloister.node import running as runnings
from cloister.node.config import Researcher, SessionLimits, session_limits
from cloister.node.crashes import FREE
from cloister.node.running import Ending, Running, Session
from cloister.node.slate import READING, WORD_BYTES, WORDS, Slate

CAROL = Researcher("carol", "sha256:" + "c" * 64)
DAVE = Researcher("dave", "sha256:" + "d" * 64)


class PlayedChild:
    """An executor that is this process: what uses CPU time here, uses it there."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.slate = Slate(memoryview(bytearray(WORDS * WORD_BYTES)))
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runnings, "_LEAVING_S", 0.01)


def limits(settings: Mapping[str, object] | None = None) -> SessionLimits:
    return session_limits({"sessions_per_researcher": 2, **(settings or {})})


def opened(running: Running, child: PlayedChild, *, settings: Mapping[str, object] | None = None) -> Session:
    place = running.reserve(CAROL.fingerprint)
    session = Session(1, CAROL, child, limits=limits(settings), place=place)
    running.enter(session)
    return session


def burn(seconds: float) -> None:
    clock = runnings.Clock(os.getpid())
    began = clock.read() or 0.0
    while (clock.read() or 0.0) - began < seconds:
        pass


def test_one_peer_has_so_many_sessions_and_others_have_theirs() -> None:
    running = Running(limits())
    first, _ = running.reserve("carol"), running.reserve("carol")
    with pytest.raises(UnreachableError, match="sessions_per_researcher"):
        running.reserve("carol")
    running.reserve("dave")
    running.free(first)
    running.free(first)
    running.reserve("carol")
    with pytest.raises(UnreachableError):
        running.reserve("carol")


def test_a_place_that_is_just_being_left_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runnings, "_LEAVING_S", 20.0)
    running = Running(limits({"sessions_per_researcher": 1}))
    place = running.reserve("carol")
    thread = threading.Thread(target=lambda: running.reserve("carol"), daemon=True)
    thread.start()
    running.free(place)
    thread.join(20)
    assert not thread.is_alive()


def test_a_call_that_takes_too_long_ends_its_session() -> None:
    running, child = Running(limits()), PlayedChild()
    session = opened(running, child, settings={"call_cpu": "10 ms"})
    child.slate.begin("aten::mm")
    session.look()
    assert session.ending is None
    burn(0.02)
    session.look()
    assert session.ending is not None
    assert session.ending.error is CpuLimitError
    assert session.ending.counts
    assert "aten::mm" in session.ending.text
    assert "call_cpu" in session.ending.text
    assert child.killed.is_set()


def test_many_short_calls_end_their_session_when_all_of_it_is_used() -> None:
    running, child = Running(limits()), PlayedChild()
    session = opened(running, child, settings={"call_cpu": "10 s", "session_cpu": "30 ms"})
    for _ in range(4):
        child.slate.begin("aten::mm")
        session.look()
        burn(0.01)
    session.look()
    assert session.ending is not None
    assert session.ending.error is CpuLimitError
    assert not session.ending.counts
    assert "session_cpu" in session.ending.text


def test_a_session_that_is_asked_nothing_ends_and_a_busy_one_does_not() -> None:
    child = PlayedChild()
    session = opened(Running(limits()), child, settings={"idle": "1 ms"})
    child.slate.begin(READING)
    burn(0.005)
    session.look()
    assert session.ending is None
    child.slate.rest()
    burn(0.005)
    session.look()
    assert session.ending is not None
    assert session.ending.error is SessionEndedError
    assert "idle" in session.ending.text


def test_what_is_heard_begins_the_idle_time_anew() -> None:
    child = PlayedChild()
    session = opened(Running(limits()), child, settings={"idle": "1 h"})
    again_s = session.look()
    burn(0.005)
    session.heard()
    assert again_s < 3600
    assert session.look() <= 3600
    assert session.ending is None


def test_the_first_reason_stands() -> None:
    child = PlayedChild()
    session = opened(Running(limits()), child)
    session.end(Ending(CpuLimitError, "first"))
    session.end_for_owner()
    assert session.ending == Ending(CpuLimitError, "first")


def test_a_dead_process_has_no_limits() -> None:
    child = PlayedChild()
    child.pid = 1 << 22  # beyond what Linux gives
    session = opened(Running(limits()), child, settings={"idle": "1 ms"})
    session.look()
    assert session.ending is None
    assert session.account().cpu_s == 0.0


def test_all_are_watched_and_one_that_is_entered_later_too() -> None:
    running, first, second = Running(limits()), PlayedChild(), PlayedChild()
    thread = threading.Thread(target=running.watch, daemon=True)
    thread.start()
    opened(running, first, settings={"idle": "1 ms"})
    assert first.killed.wait(20)
    second_session = Session(2, DAVE, second, limits=limits({"idle": "1 ms"}), place=running.reserve(DAVE.fingerprint))
    running.enter(second_session)
    assert second.killed.wait(20)
    running.close()
    thread.join(20)
    assert not thread.is_alive()


def test_an_owner_sees_and_ends_sessions() -> None:
    running, child = Running(limits()), PlayedChild()
    session = opened(running, child)
    child.slate.holds(objects=3, nbytes=1200)
    child.slate.begin("aten::mm")
    (account,) = running.accounts()
    assert (account.number, account.researcher, account.fingerprint) == (1, "carol", CAROL.fingerprint)
    assert (account.objects, account.nbytes, account.last, account.idle_s) == (3, 1200, "aten::mm", 0.0)
    child.slate.rest()
    (account,) = running.accounts()
    assert account.last == "aten::mm"
    assert account.idle_s > 0
    assert not running.end(7)
    assert not child.killed.is_set()
    assert running.end(1)
    assert child.killed.is_set()
    assert session.ending is not None
    assert session.ending.error is SessionEndedError
    running.leave(session)
    running.leave(session)
    assert not running.accounts()
    assert not running.end(1)


def test_who_crashes_again_and_again_is_put_off_and_nobody_else() -> None:
    now = [0.0]
    running, child = Running(limits(), clock=lambda: now[0]), PlayedChild()
    session = opened(running, child)
    for _ in range(FREE):
        assert "put off" not in running.crashed(session)
    running.leave(session)
    running.free(running.reserve(CAROL.fingerprint))
    assert "put off for 10 s" in running.crashed(session)
    with pytest.raises(PutOffError, match="10 s") as caught:
        running.reserve(CAROL.fingerprint)
    assert caught.value.wait_s == 10.0
    running.reserve(DAVE.fingerprint)
    now[0] = 10.0
    running.reserve(CAROL.fingerprint)


def test_a_peer_keeps_no_more_dead_sessions_than_it_may_have() -> None:
    running = Running(limits())
    pairs = [socket.socketpair() for _ in range(3)]
    connections = [Connection(here) for here, _ in pairs]
    contexts = [running.telling("carol", connection) for connection in connections]
    for context in contexts:
        context.__enter__()
    with pytest.raises(ConnectionLostError):
        connections[0].receive(wait_s=0)
    for context in contexts:
        context.__exit__(None, None, None)
    for connection, (_, there) in zip(connections, pairs, strict=True):
        connection.close()
        there.close()


def test_a_slate_with_anything_on_it_is_read() -> None:
    words = memoryview(bytearray(b"\xff" * (WORDS * WORD_BYTES)))
    seen = Slate(words).read()
    assert seen.does == ""
    assert seen.nbytes == 1 << 48
