"""An executor's side of a session: the loop that serves it, over a link whose other end is the test's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import pytest
import torch

from cloister.errors import MemoryLimitError
from cloister.net.connection import Frame
from cloister.node.ipc import Link, pair
from cloister.node.session.data_sets import DataSets
from cloister.node.session.executor_process import Courier, serve
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.wire.tensors import TensorSpec
from cloister.worker.executor import Executor

MIB = 1 << 20


class Listener:
    """The other end: sends what a caller would, and reads answers."""

    def __init__(self, *, memory_bytes: int = 16 * MIB) -> None:
        here, there = pair()
        moves_here, moves_there = pair()
        self.link, self._there = Link(here), Link(there)
        self._moves = Link(moves_here), Link(moves_there)
        executor = Executor(
            memory_bytes=memory_bytes, objects=100, data_sets=DataSets([]), exchange=Courier(self._moves[1])
        )
        self.ended: list[BaseException | None] = []
        self.thread = threading.Thread(target=self._serve, args=(executor,), daemon=True)
        self.thread.start()

    def _serve(self, executor: Executor) -> None:
        try:
            serve(self._there, executor)
            self.ended.append(None)
        except EOFError as fault:
            self.ended.append(fault)
        self._there.close()

    def send(self, kind: Kind, message: object, *bodies: bytes) -> None:
        data = b"".join(bodies)
        self.link.send(kind, message, len(data))  # type: ignore[arg-type]
        at = 0
        for room in self.link.buffers(len(data)):
            room[:] = data[at : at + len(room)]
            at += len(room)

    def receive(self) -> tuple[Frame, bytes]:
        frame = self.link.receive()
        return frame, b"".join(bytes(piece) for piece in self.link.pieces(frame.body_bytes))

    def ask(self, question: m.Question, commands: Sequence[m.Command] = (), *bodies: bytes) -> tuple[Frame, bytes]:
        self.send(Kind.ASK, m.Ask([*commands], question), *bodies)
        return self.receive()

    def end(self) -> None:
        self.link.close()
        self.thread.join(20)
        assert not self.thread.is_alive()
        for link in self._moves:
            link.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.end()


def put(id: int, data: bytes) -> m.Put:
    return m.Put(id, TensorSpec("uint8", (len(data),)))


def test_values_come_back_across_slots_and_tensors(listener: Listener) -> None:
    bodies = [os.urandom(n) for n in (5, 3 * MIB - 2, 0, 70_000, MIB)]
    commands = [put(id, body) for id, body in enumerate(bodies, 1)]
    frame, body = listener.ask(m.Fetch((1, 2, 3, 4, 5)), commands, *bodies)
    assert frame.message(m.VOCABULARY) == m.Values(tuple(command.spec for command in commands))
    assert body == b"".join(bodies)


def test_a_body_that_is_refused_is_passed_over(listener: Listener) -> None:
    listener.send(Kind.BATCH, m.Batch([put(1, b"kept")]), b"kept")
    frame, _ = listener.ask(m.Count(), [put(2, bytes(20 * MIB))], bytes(20 * MIB))
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.FAILURE, MemoryLimitError.code)
    assert listener.ask(m.Fetch((1,)))[1] == b"kept"


@pytest.mark.parametrize(
    ("kind", "header", "body"),
    [
        pytest.param(Kind.BATCH, b"\xc1 no msgpack", b"", id="garbage"),
        pytest.param(Kind.ASK, encode(m.Batch([])), b"", id="another message"),
        pytest.param(Kind.BATCH, encode(m.Batch([])), b"abc", id="bytes for no tensor"),
        pytest.param(Kind.BATCH, encode(m.Batch([m.Put(1, TensorSpec("float8", (1,)))])), b"a", id="no such type"),
        pytest.param(Kind.BATCH, encode(m.Batch([m.Put(1, TensorSpec("bool", (3,)))])), b"\0\1\2", id="no bool"),
    ],
)
def test_nonsense_ends_the_session_with_a_reason(listener: Listener, kind: Kind, header: bytes, body: bytes) -> None:
    listener.send(kind, header, body)
    frame, _ = listener.receive()
    assert (frame.kind, frame.message(m.VOCABULARY).code) == (Kind.REFUSAL, "protocol")
    with pytest.raises(EOFError):
        listener.receive()
    assert listener.ended == [None]


def test_much_nonsense_is_not_even_read(listener: Listener) -> None:
    listener.link.send(Kind.BATCH, m.Batch([]), 1 << 39)
    assert listener.receive()[0].kind is Kind.REFUSAL


def test_it_ends_with_its_input(listener: Listener) -> None:
    listener.send(Kind.BATCH, m.Batch([put(1, b"abc")]), b"abc")
    listener.link.finish()
    listener.thread.join(20)
    assert listener.ended == [None]


def test_it_ends_within_a_body(listener: Listener) -> None:
    listener.link.send(Kind.BATCH, m.Batch([put(1, bytes(5 * MIB))]), 5 * MIB)
    next(listener.link.buffers(5 * MIB))
    listener.link.close()
    listener.thread.join(20)
    assert isinstance(listener.ended[0], EOFError)


def test_values_without_bytes(listener: Listener) -> None:
    spec = TensorSpec("float32", (0, 3))
    frame, body = listener.ask(m.Fetch((1,)), [m.Put(1, spec)])
    assert (frame.message(m.VOCABULARY), body) == (m.Values((spec,)), b"")
    assert torch.empty(0, 3).nbytes == 0
