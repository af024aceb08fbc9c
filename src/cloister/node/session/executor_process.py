"""The process of one session: ``python -m cloister.node.session.executor_process``.

``cloister.node.session.child`` starts it. It holds no key of its node's and talks to nobody but its listener. It warms
up, says so, waits for its session, gives up the rights that this will not need (``cloister.node.confinement``), serves
it and ends. It also ends when the listener ends, for any reason.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import torch

from cloister.errors import MessageError, MoveError, WireError, WorkerError
from cloister.net.connection import Frame
from cloister.node.confinement import confine, limit_memory, tie
from cloister.node.ipc import Descriptors, End, Link, fill
from cloister.node.program import run, use_threads
from cloister.node.session.child import Assignment, Opening
from cloister.node.session.data_sets import DataSets
from cloister.node.slate import READING
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.messages import Refusal
from cloister.wire.tensors import TensorSpec
from cloister.worker.executor import Executor
from cloister.worker.values import as_bytes, check_received, spec_of

_log: Final = logging.getLogger("cloister.node.session.executor_process")


class Courier:
    """Moves values through the listener. Implements ``cloister.worker.executor.Exchange``.

    ``cloister.node.session.moves`` describes the turns of the conversation.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reached: str | None = None

    def reach(self, peer: str) -> None:
        """Has the listener dial the peer. The connection serves the next push if that is to the same peer.

        Raises:
            MoveError: the peer cannot be reached, or does not let this worker push.
        """
        self._reached = None
        self._link.send(Kind.DIAL, m.Dial(peer))
        self._expect_done()
        self._reached = peer

    def push(self, peer: str, ticket: bytes, tensors: Sequence[torch.Tensor]) -> None:
        """Hands the listener values for the peer.

        Raises:
            MoveError: the peer cannot be reached, or did not take them.
        """
        try:
            specs = tuple(map(spec_of, tensors))
        except MessageError as fault:
            raise MoveError(str(fault)) from None
        if self._reached != peer:
            self.reach(peer)
        self._reached = None
        _send(self._link, Kind.PUSH, m.Delivery(ticket, specs), tensors)
        self._expect_done()

    def take(self, peer: str, ticket: bytes, specs: Sequence[TensorSpec], into: Sequence[torch.Tensor]) -> None:
        """Waits for the peer's push with this ticket, and writes its values ``into`` memory that fits ``specs``.

        Raises:
            MoveError: it did not come, or its values do not fit ``specs``.
        """
        self._link.send(Kind.AWAIT, m.Await(peer, ticket))
        offered = self._receive(Kind.PUSH).message(m.VOCABULARY).specs
        if offered != tuple(specs):
            raise self._decline("the other worker's values have other shapes or element types than its pointers")
        self._link.send(Kind.ANSWER, m.Done())
        frame = self._receive(Kind.PUSH)
        _scatter(self._link.pieces(frame.body_bytes), into)
        self._expect_done()
        try:
            check_received(into)
        except MessageError as fault:
            raise self._decline(str(fault)) from None
        self._link.send(Kind.ANSWER, m.Done())

    def decline(self, peer: str, ticket: bytes, text: str) -> None:
        """Waits for the peer's push with this ticket, only to tell the peer why it is not taken."""
        self._link.send(Kind.AWAIT, m.Await(peer, ticket))
        with suppress(MoveError):  # it did not come, so there is nobody to tell
            self._receive(Kind.PUSH)
            self._decline(text)

    def _decline(self, text: str) -> MoveError:
        self._link.send(Kind.FAILURE, m.Failure(code=MoveError.code, op="", site=0, text=text))
        return MoveError(text)

    def _expect_done(self) -> None:
        self._receive(Kind.ANSWER)

    def _receive(self, kind: Kind) -> Frame:
        frame = self._link.receive()
        if frame.kind is Kind.FAILURE:
            raise MoveError(frame.message(m.VOCABULARY).text)
        if frame.kind is not kind:
            raise EOFError(f"the listener says {frame.kind.name} where {kind.name} is due")
        return frame


def serve(link: Link, executor: Executor) -> None:
    """Serves one session. Returns when its listener says that no more comes, or when the caller breaks the protocol.

    Raises:
        EOFError: the link ended within a frame, or within a move.
    """
    slate = link.slate
    while True:
        slate.holds(objects=executor.objects, nbytes=executor.nbytes)
        slate.rest()
        try:
            frame = link.receive()
        except EOFError:
            return
        slate.begin(READING)
        try:
            message = frame.message(m.VOCABULARY)
            specs = m.check_body(message, frame.body_bytes)
            _run(link, executor, message.commands, specs, frame.body_bytes)
            if isinstance(message, m.Ask):
                _answer(link, executor, message.question)
        except WireError as fault:
            # It is not known what the caller believes this session holds: it is told why, and the session ends.
            link.send(Kind.REFUSAL, Refusal("protocol", str(fault)[:TEXT_CHARS], 0))
            return


def _run(
    link: Link, executor: Executor, commands: Sequence[m.Command], specs: Sequence[TensorSpec], body_bytes: int
) -> None:
    try:
        puts = executor.allocate(specs)
    except WorkerError as fault:
        link.skip(body_bytes)
        executor.fail(fault)
        puts = []
    else:
        _scatter(link.pieces(body_bytes), puts)
        check_received(puts)
    executor.run(commands, puts)


def _answer(link: Link, executor: Executor, question: m.Question) -> None:
    try:
        answer, values = executor.answer(question)
    except WireError as fault:  # a value of an element type that does not travel
        answer, values = m.Failure("refused", "", 0, str(fault)[:TEXT_CHARS]), []
    kind = Kind.FAILURE if isinstance(answer, m.Failure) else Kind.ANSWER
    _send(link, kind, answer, values)


def _send(link: Link, kind: Kind, message: msgspec.Struct, tensors: Sequence[torch.Tensor]) -> None:
    views = [as_bytes(tensor) for tensor in tensors]
    body_bytes = sum(map(len, views))
    link.send(kind, message, body_bytes)
    fill(link.buffers(body_bytes), views)


def _scatter(pieces: Iterable[memoryview], tensors: Iterable[torch.Tensor]) -> None:
    """Copies pieces, one after the other, into the memory of tensors that together are as long."""
    targets = map(as_bytes, tensors)
    target = memoryview(b"")
    for piece in pieces:
        while piece:
            if not target:
                target = next(targets)
                continue
            part = min(len(target), len(piece))
            target[:part] = piece[:part]
            target = target[part:]
            piece = piece[part:]


def warm_up() -> None:
    """Does in advance what would slow a session's first operations. No other thread may be started yet."""
    from cloister.tensor.fakes import Fakes

    torch.set_num_threads(1)
    square = torch.ones(8, 8)
    square @ square
    with Fakes() as mode:
        fake = mode.from_tensor(square)
        fake @ fake


def _opening() -> Opening:
    """Waits for a session. The text that held its keys is not kept."""
    data = sys.stdin.buffer.read()
    if not data:
        raise EOFError("there will be no session")
    return msgspec.json.decode(data, type=Opening)


def main(arguments: Sequence[str]) -> None:
    """The process. Its arguments are the descriptors of its two links; what it is to do comes on standard input.

    Raises:
        EOFError: the listener is gone, has cut the session short, or opened none.
    """
    numbers = [int(argument) for argument in arguments]
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    tie(assignment.listener)
    session, moves = (Link(End.adopt(Descriptors(*numbers[at : at + 3]))) for at in (0, 3))
    warm_up()
    session.send(Kind.ANSWER, m.Done())
    data_sets = _opening().data_sets
    executor = Executor(
        device=assignment.device,
        memory_bytes=assignment.memory_bytes,
        objects=assignment.objects,
        data_sets=DataSets(data_sets, device=assignment.device),
        exchange=Courier(moves),
        begin=session.slate.begin,
    )
    if assignment.device == "cpu":
        held = sum(entry.spec.nbytes() for entry in data_sets if entry.spec is not None)
        limit_memory(2 * assignment.memory_bytes + held, threads=assignment.threads)
    confine((entry.path for entry in data_sets if entry.unsafe_interactive), device=assignment.device)
    use_threads(assignment.threads)
    serve(session, executor)


if __name__ == "__main__":
    run(main, log=_log)
