"""One member's connection in a study: its messages to the state machine, and what that says to it, both as they come.

One thread serves it. It waits for the socket and for a wakeup, and for nothing else; whatever a member does or fails to
do with its connection holds up nobody but itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Final

from cloister.aggregator.bodies import Body
from cloister.aggregator.own import seconds_for
from cloister.aggregator.peers import refused
from cloister.enclave.hub import Hub, MemberConnection
from cloister.errors import CloisterError, MessageError, NetworkError, WireError
from cloister.net.connection import Connection, Frame
from cloister.net.handshake_server import refuse, refuse_for
from cloister.net.polling import READABLE, Watched
from cloister.net.proving import Prover
from cloister.wire.frames import Kind
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.rounds import Join

_FRAME_S: Final = 10.0
_CHALLENGES: Final = 8
"""Proofs that a member may ask for before it has been told anything; each message that it is told allows as many."""


class MemberHandler:
    """One member's connection, from the welcome to its end."""

    def __init__(self, connection: Connection, *, hub: Hub, prover: Prover) -> None:
        self._connection = connection
        self._hub = hub
        self._prover = prover
        self._challenges = _CHALLENGES

    def serve(self) -> None:
        """Until either end ends it."""
        member_connection = self._hub.enter(self._connection.peer, interrupt=self._connection.interrupt)
        watched = Watched({self._connection.fileno(): READABLE, member_connection.wakeup.fileno(): READABLE})
        try:
            while self._tell(member_connection) and self._listen(member_connection, watched):
                pass
        except WireError as fault:
            refuse_for(self._connection, fault)
        except NetworkError:
            if not member_connection.ending:  # otherwise it was ended here
                raise
        finally:
            self._hub.leave(member_connection)

    def _tell(self, member_connection: MemberConnection) -> bool:
        """Sends what is in the outbox; False when that was the last."""
        member_connection.wakeup.clear()  # before the outbox is looked at: what comes later rings again
        ending = member_connection.ending  # likewise, so that nothing comes after
        for outgoing in self._hub.take(member_connection):
            with _busy(member_connection):
                self._connection.send(Kind.ROUND, outgoing.message, outgoing.bodies)
            self._challenges = _CHALLENGES
        if ending:
            refuse(self._connection, "closing", text=ending)
        return not ending

    def _listen(self, member_connection: MemberConnection, watched: Watched) -> bool:
        """Waits for the member or for the wakeup, and serves the member's next frame; False when the end has come."""
        waiting = not self._connection.pending()
        happened = watched.wait(until=None) if waiting else {self._connection.fileno()}
        if self._connection.fileno() not in happened:
            return True
        frame = self._connection.receive(wait_s=_FRAME_S)
        if frame.kind is Kind.CHALLENGE and self._challenges:
            self._challenges -= 1
            return self._prover.serve(frame)
        if frame.kind is not Kind.ROUND:
            raise MessageError(f"{frame.kind.name} has no place here, or came too often")
        return self._hear(member_connection, frame)

    def _hear(self, member_connection: MemberConnection, frame: Frame) -> bool:
        message = frame.message()
        try:
            body = self._hub.expect(member_connection, message, body_bytes=frame.body_bytes)
        except CloisterError as fault:
            number = 0 if isinstance(message, Join) else getattr(message, "round", 0)
            self._connection.send(Kind.ROUND, refused(number, fault))
            refuse(self._connection, "protocol", text="a body came that nobody asked for")
            return False
        if body is not None:
            with _busy(member_connection):
                self._read(body, body_bytes=frame.body_bytes)
        elif frame.body_bytes:
            return False  # it has just been dropped
        self._hub.say(member_connection, message, body)
        return True

    def _read(self, body: Body, *, body_bytes: int) -> None:
        if body_bytes <= CHUNK_BYTES:
            for buffer in self._filled(body):
                body.update(buffer)
            return
        looked = None
        with ThreadPoolExecutor(1) as beside:  # what has arrived is looked at while the next part arrives
            for buffer in self._filled(body):
                looked = beside.submit(body.update, buffer)  # the last one tells: one thread looks at all, in order
        if looked is not None:
            looked.result()

    def _filled(self, body: Body) -> Iterator[memoryview]:
        """A body's buffers, each once it is filled. Of the time that is waited, what has arrived has a second a MiB."""
        arrived, waited = 0, 0.0
        for buffer in body.buffers():
            arrived, began = arrived + len(buffer), monotonic()
            until = began - waited + seconds_for(arrived, least=self._hub.upload_s)
            self._connection.read_into(buffer, until=until)
            waited += monotonic() - began
            yield buffer


@contextmanager
def _busy(member_connection: MemberConnection) -> Iterator[None]:
    member_connection.busy = True
    try:
        yield
    finally:
        member_connection.busy = False
