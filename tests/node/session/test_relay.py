"""The relay of one session: a caller over a socket pair, an executor played by the test."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from cloister.errors import ConnectionLostError
from cloister.net.connection import Connection
from cloister.net.polling import Wakeup
from cloister.net.proving import Instance, Prover
from cloister.node.config import Researcher, session_limits
from cloister.node.ipc import Link, pair
from cloister.node.running import Running, Session
from cloister.node.session.relay import Relay
from cloister.node.slate import Slate
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.messages import Challenge, Hello, Proof, Provision, Refusal, encode
from cloister.wire.tensors import TensorSpec
from tests.support.attested import ADDRESS, ATTESTER

MIB = 1 << 20


class PlayedChild:
    """What the relay knows of an executor's process."""

    pid = 42

    def __init__(self) -> None:
        here, there = pair()
        self.session = Link(here)
        self.executor = Link(there)

    @property
    def slate(self) -> Slate:
        return self.session.slate

    def reason(self) -> str:
        return "it was played"

    def kill(self) -> None:
        self.executor.close()


class Scene:
    """One relay in its thread, and both its ends."""

    def __init__(self, *, grace_s: float, instance: Instance | None = None) -> None:
        self.child = PlayedChild()
        self.executor = self.child.executor
        here, there = socket.socketpair()
        self.caller = Connection(there)
        self.accepted = Connection(here)
        self.closing = Wakeup()
        self.released = threading.Event()
        self.how = ""
        limits = session_limits({})
        self.running = Running(limits)
        researcher = Researcher("carol", "sha256:" + "c" * 64)
        place = self.running.reserve(researcher.fingerprint)
        self.session = Session(7, researcher, self.child, limits=limits, place=place)
        self.relay = Relay(
            self.accepted,
            self.child,  # type: ignore[arg-type]
            closing=self.closing,
            grace_s=grace_s,
            session=self.session,
            running=self.running,
            release=self.released.set,
            prover=None if instance is None else Prover(self.accepted, instance),
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.how = self.relay.run()
        self.child.session.close()
        self.accepted.close()

    def over(self) -> str:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.how

    def end(self) -> None:
        self.caller.close()
        self.executor.close()
        self.closing.set()
        self.over()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene(grace_s=20.0)
    yield scene
    scene.end()


@pytest.fixture
def hasty() -> Iterator[Scene]:
    scene = Scene(grace_s=0.1)
    yield scene
    scene.end()


def ask(scene: Scene) -> None:
    scene.caller.send(Kind.ASK, m.Ask([], m.Count()))
    assert scene.executor.receive().message(m.VOCABULARY) == m.Ask([], m.Count())


def test_frames_pass_as_they_are(scene: Scene) -> None:
    data = os.urandom(3 * MIB + 7)
    batch = m.Batch([m.Put(1, TensorSpec("uint8", (len(data),)))])
    sent = threading.Thread(target=scene.caller.send, args=(Kind.BATCH, batch, [memoryview(data)]))
    sent.start()
    frame = scene.executor.receive()
    assert (frame.kind, frame.message(m.VOCABULARY), frame.body_bytes) == (Kind.BATCH, batch, len(data))
    assert b"".join(bytes(piece) for piece in scene.executor.pieces(len(data))) == data
    sent.join()
    ask(scene)
    scene.executor.send(Kind.ANSWER, m.Values(batch.commands[0].spec and (batch.commands[0].spec,)), len(data))  # type: ignore[union-attr]
    done = threading.Event()

    def answer() -> None:
        at = 0
        for room in scene.executor.buffers(len(data)):
            room[:] = data[at : at + len(room)]
            at += len(room)
        done.set()

    threading.Thread(target=answer, daemon=True).start()
    frame = scene.caller.receive(wait_s=20)
    into = bytearray(frame.body_bytes)
    scene.caller.read_into(memoryview(into))
    assert into == data
    assert done.wait(20)


def test_a_failure_passes(scene: Scene) -> None:
    ask(scene)
    failure = m.Failure("memory", "aten::add", 3, "too much")
    scene.executor.send(Kind.FAILURE, failure)
    assert scene.caller.receive(wait_s=20).message(m.VOCABULARY) == failure
    ask(scene)


@pytest.mark.slow
def test_a_caller_is_held_back_while_the_executor_is_busy(scene: Scene) -> None:
    body = bytes(40 * MIB)
    batch = m.Batch([m.Put(1, TensorSpec("uint8", (len(body),)))])
    sent = threading.Thread(target=scene.caller.send, args=(Kind.BATCH, batch, [memoryview(body)]), daemon=True)
    sent.start()
    scene.executor.receive()
    sent.join(0.3)
    assert sent.is_alive()  # four slots and the sockets' own memory are full
    scene.executor.skip(len(body))
    sent.join(20)
    assert not sent.is_alive()


def test_a_caller_that_leaves_between_frames_ends_the_executors_input(scene: Scene) -> None:
    scene.caller.send(Kind.BATCH, m.Batch([]))
    scene.caller.close()
    assert scene.executor.receive().kind is Kind.BATCH
    with pytest.raises(EOFError):
        scene.executor.receive()
    assert not scene.released.is_set()  # it may still be at work on the batch
    scene.executor.close()
    assert "closed the connection" in scene.over()


def test_a_caller_that_leaves_over_a_question_gives_the_executor_its_grace(scene: Scene) -> None:
    ask(scene)
    scene.caller.close()
    scene.executor.send(Kind.ANSWER, m.Counted(1, 2))
    with pytest.raises(EOFError):
        scene.executor.receive()
    scene.executor.close()
    scene.over()


def test_the_grace_period_ends(hasty: Scene) -> None:
    ask(hasty)
    hasty.caller.close()
    assert "grace period is over" in hasty.over()


def test_a_caller_that_leaves_within_a_body(scene: Scene) -> None:
    header = encode(m.Batch([m.Put(1, TensorSpec("uint8", (9 * MIB,)))]))
    scene.caller.send_raw(Kind.BATCH, header, 9 * MIB)
    scene.caller.send_body(memoryview(bytes(2 * MIB)))
    scene.caller.close()
    frame = scene.executor.receive()
    with pytest.raises(EOFError):
        scene.executor.skip(frame.body_bytes)
    scene.executor.close()
    scene.over()


def test_an_executor_that_dies_between_frames_is_told_at_the_next_question(scene: Scene) -> None:
    scene.executor.close()
    assert scene.released.wait(20)  # its place is free before the caller has noticed
    scene.caller.send(Kind.BATCH, m.Batch([m.Put(1, TensorSpec("uint8", (5,)))]), [memoryview(b"abcde")])
    scene.caller.send(Kind.ASK, m.Ask([], m.Count()))
    frame = scene.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.FAILURE, "crashed")
    assert "it was played" in frame.message(m.VOCABULARY).text
    frame = scene.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "crashed")
    with pytest.raises(ConnectionLostError):
        scene.caller.receive(wait_s=20)


def test_an_executor_that_dies_within_an_answer_breaks_the_connection(scene: Scene) -> None:
    ask(scene)
    scene.executor.send(Kind.ANSWER, m.Values((TensorSpec("uint8", (9 * MIB,)),)), 9 * MIB)
    next(scene.executor.buffers(9 * MIB))
    scene.executor.close()
    frame = scene.caller.receive(wait_s=20)
    with pytest.raises(ConnectionLostError):
        scene.caller.skip(frame.body_bytes)


def test_an_executors_refusal_is_passed_on(scene: Scene) -> None:
    scene.caller.send(Kind.BATCH, m.Batch([]))
    scene.executor.receive()
    scene.executor.send(Kind.REFUSAL, Refusal("protocol", "no such message", 0))
    scene.executor.close()
    frame = scene.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY)) == (Kind.REFUSAL, Refusal("protocol", "no such message", 0))
    scene.caller.close()
    assert "no such message" in scene.over()


@pytest.mark.parametrize("asked", [True, False])
def test_an_executor_that_speaks_out_of_turn_is_as_good_as_dead(scene: Scene, asked: bool) -> None:
    if asked:
        ask(scene)
        scene.executor.send(Kind.BATCH, m.Batch([]))
    else:
        scene.executor.send(Kind.ANSWER, m.Done())
        assert scene.released.wait(20)
        scene.caller.send(Kind.ASK, m.Ask([], m.Count()))
    assert scene.caller.receive(wait_s=20).message(m.VOCABULARY).code == "crashed"


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.BATCH, Kind.ASK}))
def test_only_batches_and_questions_have_a_place(scene: Scene, kind: Kind) -> None:
    scene.caller.send_raw(kind, b"\x90", 0)
    frame = scene.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "protocol")
    scene.caller.close()
    with pytest.raises(EOFError):
        scene.executor.receive()


def test_a_node_that_closes_tells_an_idle_caller(scene: Scene) -> None:
    scene.closing.set()
    frame = scene.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "closing")
    scene.caller.close()
    with pytest.raises(EOFError):
        scene.executor.receive()


def test_a_node_that_closes_lets_a_question_be_answered(scene: Scene) -> None:
    ask(scene)
    scene.closing.set()
    scene.executor.send(Kind.ANSWER, m.Counted(1, 2))
    assert scene.caller.receive(wait_s=20).message(m.VOCABULARY) == m.Counted(1, 2)
    assert scene.caller.receive(wait_s=20).message(m.VOCABULARY).code == "closing"


def test_a_node_that_closes_does_not_wait_for_ever(hasty: Scene) -> None:
    ask(hasty)
    started = monotonic()
    hasty.closing.set()
    hasty.over()
    assert monotonic() - started < 10


def test_a_node_that_closes_does_not_hear_out_a_dead_session(scene: Scene) -> None:
    scene.executor.close()
    assert scene.released.wait(20)
    scene.closing.set()
    scene.over()


# A session with one that proves itself

CHARTER = b"\x0c" * 32
CHALLENGE = Challenge(versions=(1,), nonce=b"\x07" * 32, charter=CHARTER)


@pytest.fixture
def proving() -> Iterator[Scene]:
    instance = Instance(role="aggregator", attester=ATTESTER, charter=CHARTER, name=ADDRESS)
    scene = Scene(grace_s=20.0, instance=instance)
    yield scene
    scene.end()


def test_a_challenge_in_a_session_is_answered_and_the_executor_hears_nothing_of_it(proving: Scene) -> None:
    proving.caller.send(Kind.BATCH, m.Batch([m.Free((1,))]))
    for _ in range(3):
        proving.caller.send(Kind.CHALLENGE, CHALLENGE)
        frame = proving.caller.receive(wait_s=20)
        assert frame.kind is Kind.PROOF
        assert CHALLENGE.nonce in frame.message(m.VOCABULARY).transcript
    assert proving.executor.receive().message(m.VOCABULARY) == m.Batch([m.Free((1,))])
    ask(proving)
    proving.executor.send(Kind.ANSWER, m.Counted(objects=0, nbytes=0))
    assert proving.caller.receive(wait_s=20).message(m.VOCABULARY) == m.Counted(objects=0, nbytes=0)


def test_a_challenge_for_another_charter_ends_the_session(proving: Scene) -> None:
    proving.caller.send(Kind.CHALLENGE, Challenge(versions=(1,), nonce=bytes(32), charter=bytes(32)))
    frame = proving.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "charter")
    proving.executor.close()
    proving.caller.close()
    assert "refused a proof" in proving.over()


@pytest.mark.parametrize(
    ("kind", "message", "body"),
    [
        (Kind.CHALLENGE, CHALLENGE, b"surplus"),
        (Kind.PROOF, Proof(transcript=b"", evidence=b""), b""),
        (Kind.PROVISION, Provision(name="data", sealed=b"x"), b""),
        (Kind.HELLO, Hello(versions=(1,), purpose="session", software="test", table=None), b""),
    ],
)
def test_nothing_else_of_an_opening_has_a_place_in_a_session(proving: Scene, kind, message, body) -> None:
    proving.caller.send(kind, message, [memoryview(body)] if body else ())
    frame = proving.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "protocol")


def test_a_worker_that_is_known_by_its_key_proves_nothing(scene: Scene) -> None:
    scene.caller.send(Kind.CHALLENGE, CHALLENGE)
    frame = scene.caller.receive(wait_s=20)
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "protocol")
