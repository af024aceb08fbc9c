"""Moves of values from worker to worker: the listener's part, on both sides.

A session's executor asks over its ``moves`` link, in a conversation of strict turns (docs/wire.md, "Inside a node"):

    reach   DIAL -> ANSWER or FAILURE; the connection waits for a push
    push    PUSH with its body -> ANSWER or FAILURE, as the other node said; the connection is closed
    take    AWAIT -> PUSH without a body, or FAILURE;  ANSWER (wanted) or FAILURE (not so, told to the pusher)
            -> PUSH with its body, then ANSWER (complete) or FAILURE (cut short);  ANSWER or FAILURE, told to the pusher

The bytes go from the other node to the executor, or back, and are not kept here. A push and the session that awaits it
find each other by the pusher's key, which TLS has proved, and the ticket: 32 random bytes that the caller of both
sessions has drawn. So no stranger and no other worker or caller can take the place of one of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from cloister.errors import CloisterError, MessageError, MoveError, NetworkError, WireError
from cloister.net.connection import Connection, Frame
from cloister.net.polling import HUNG_UP, READABLE, Wakeup, wait
from cloister.node.ipc import Link
from cloister.wire.frames import Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.sessions import VOCABULARY, Await, Delivery, Dial, Done, Failure, check_body

WAITING_PER_PEER: Final = 16
"""The most pushes of one worker that may wait for their sessions at a time."""

Verdict = tuple[Kind, Done | Failure]
_Key = tuple[str, bytes]


class Arrival:
    """A push that has arrived: its frame, and its connection, from which the session that takes it reads the body."""

    def __init__(self, connection: Connection, frame: Frame) -> None:
        self.connection = connection
        self.frame = frame
        self.unread = frame.body_bytes
        self._settled = Wakeup()
        self._verdict: Verdict | None = None

    def settle(self, verdict: Verdict) -> None:
        """Settles the outcome. The connection belongs to the pusher's thread again."""
        self._verdict = verdict
        self._settled.set()

    def wait(self, *, until: float, unless: int) -> Verdict | None:
        """Waits for the outcome; None at the moment ``until``, when ``unless`` is readable, or when the pusher is
        gone."""
        watched = {self._settled.fileno(): READABLE, unless: READABLE, self.connection.fileno(): HUNG_UP}
        wait(watched, until=until)
        return self._verdict

    def verdict(self) -> Verdict | None:
        """Waits for the outcome once a session has taken the push, since that always settles it."""
        wait({self._settled.fileno(): READABLE}, until=None)
        return self._verdict


class _Meeting:
    def __init__(self) -> None:
        self.arrived = Wakeup()
        self.arrival: Arrival | None = None
        self.expected = False


class Rendezvous:
    """The meetings of one node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meetings: dict[_Key, _Meeting] = {}

    def bring(self, peer: str, ticket: bytes, arrival: Arrival, *, until: float, unless: int) -> Verdict:
        """Offers a push, and waits until a session has taken it or refused it.

        Args:
            until: how long it may wait to be taken (``time.monotonic``).
            unless: a descriptor that ends the wait when it becomes readable.

        Raises:
            MoveError: the ticket is in use, too many pushes of this peer wait, or nobody took it.
        """
        key = (peer, ticket)
        with self._lock:
            meeting = self._meetings.setdefault(key, _Meeting())
            if meeting.arrival is not None:
                raise MoveError("a push with this ticket is waiting already")
            if not meeting.expected and self._waiting(peer) >= WAITING_PER_PEER:
                del self._meetings[key]
                raise MoveError(
                    f"{WAITING_PER_PEER} pushes of this worker wait already, for sessions that do not take them"
                )
            meeting.arrival = arrival
            meeting.arrived.set()
        verdict = arrival.wait(until=until, unless=unless)
        if verdict is None:
            with self._lock:
                taken = self._meetings.get(key) is not meeting
                if not taken:
                    del self._meetings[key]
            verdict = arrival.verdict() if taken else None
        if verdict is None:
            raise MoveError("no session at this worker took the values in time")
        return verdict

    def expect(self, peer: str, ticket: bytes, *, until: float, unless: tuple[int, ...]) -> Arrival:
        """Waits for a push and takes it. The caller must settle it.

        Args:
            until: how long to wait (``time.monotonic``).
            unless: descriptors that end the wait when they become readable or end.

        Raises:
            MoveError: the ticket is in use, or the push did not come.
        """
        key = (peer, ticket)
        with self._lock:
            meeting = self._meetings.setdefault(key, _Meeting())
            if meeting.expected:
                raise MoveError("a session waits for this ticket already")
            meeting.expected = True
        wait({meeting.arrived.fileno(): READABLE, **dict.fromkeys(unless, READABLE)}, until=until)
        with self._lock:
            # A push that was offered may have been withdrawn just now; then there is another meeting, or none.
            if self._meetings.get(key) is meeting:
                del self._meetings[key]
                if meeting.arrival is not None:
                    return meeting.arrival
        raise MoveError("the other worker did not send the values in time")

    def _waiting(self, peer: str) -> int:
        return sum(
            1 for (pusher, _), meeting in self._meetings.items() if pusher == peer and meeting.arrival is not None
        )


_log: Final = logging.getLogger(__name__)
_DRAIN_BYTES: Final = 64 << 20
"""The most bytes of an unwanted body that are read and discarded, so that the pusher reads why. More is cut off."""

_MARGIN_S: Final = 30.0
"""The time that a pusher waits longer than the other node may: that node's answer says more than a time-out. Also the
time that it has between its hello and its push."""

_ARRIVAL_S: Final = 30.0
"""The time that a session waits for values. Its caller lets it wait once the other worker is about to dial."""

DialPeer = Callable[[str], Connection]
"""A greeted connection to the peer with this fingerprint. Raises ``CloisterError``."""


def failure(text: str) -> Failure:
    """A failed move, as it travels."""
    return Failure(code=MoveError.code, op="", site=0, text=text[:TEXT_CHARS])


class Mover:
    """Serves the ``moves`` link of one session, in a thread of its own, until the executor is gone."""

    def __init__(
        self, link: Link, *, dial: DialPeer, rendezvous: Rendezvous, move_wait_s: float, closing: Wakeup
    ) -> None:
        self._link = link
        self._dial = dial
        self._rendezvous = rendezvous
        self._move_wait_s = move_wait_s
        self._closing = closing
        self._lock = threading.Lock()
        self._pushing: Connection | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ends a push under way, from another thread, when its executor is gone."""
        with self._lock:
            self._stopped = True
            if self._pushing is not None:
                self._pushing.interrupt()

    def run(self) -> None:
        """Returns when the executor is gone, or when it breaks the protocol, after which it has no moves."""
        try:
            while True:
                frame = self._link.receive()
                if frame.kind is Kind.PUSH:
                    self._push(frame)
                    continue
                match frame.kind, frame.message(VOCABULARY), frame.body_bytes:
                    case Kind.DIAL, Dial(peer), 0:
                        self._reach(peer)
                    case Kind.AWAIT, Await(peer, ticket), 0:
                        self._take(peer, ticket)
                    case _:
                        raise _out_of_turn(frame)
        except EOFError:
            pass
        except CloisterError as fault:
            _log.warning("an executor's moves end: %s", fault)
        finally:
            self._begin(None)
            self._link.close()

    def _reach(self, peer: str) -> None:
        try:
            self._begin(self._dial(peer))
        except CloisterError as fault:
            self._begin(None)
            self._link.send(Kind.FAILURE, failure(str(fault)))
        else:
            self._link.send(Kind.ANSWER, Done())

    def _push(self, frame: Frame) -> None:
        if self._pushing is None:
            raise _out_of_turn(frame)
        try:
            verdict = self._relay_push(self._pushing, frame)
        finally:
            self._begin(None)
        self._link.send(*verdict)

    def _begin(self, connection: Connection | None) -> None:
        """Replaces the connection before by this one, or by none."""
        with self._lock:
            if self._pushing is not None:
                self._pushing.close()
            self._pushing = connection
            if self._stopped and connection is not None:
                connection.interrupt()

    def _relay_push(self, connection: Connection, frame: Frame) -> Verdict:
        pieces = self._link.pieces(frame.body_bytes)
        try:
            connection.send_raw(frame.kind, frame.header, frame.body_bytes)
            for piece in pieces:
                connection.send_body(piece)
            answer = connection.receive(wait_s=self._move_wait_s + _MARGIN_S)
            if answer.body_bytes or answer.kind not in (Kind.ANSWER, Kind.FAILURE):
                raise _out_of_turn(answer)
            if answer.kind is Kind.ANSWER and not isinstance(answer.message(VOCABULARY), Done):
                raise _out_of_turn(answer)
            return (answer.kind, answer.message(VOCABULARY))
        except (NetworkError, WireError) as fault:
            for _ in pieces:  # the rest that the executor hands over
                pass
            return (Kind.FAILURE, failure(f"the values did not arrive: {fault}"))

    def _take(self, peer: str, ticket: bytes) -> None:
        try:
            arrival = self._rendezvous.expect(
                peer,
                ticket,
                until=monotonic() + min(self._move_wait_s, _ARRIVAL_S),
                unless=(self._link.fileno(), self._closing.fileno()),
            )
        except MoveError as fault:
            self._link.send(Kind.FAILURE, failure(str(fault)))
            return
        verdict: Verdict = (Kind.FAILURE, failure("the session that was to take the values has ended"))
        try:
            verdict = self._relay_take(arrival)
        finally:
            arrival.settle(verdict)

    def _relay_take(self, arrival: Arrival) -> Verdict:
        frame = arrival.frame
        self._link.send(Kind.PUSH, frame.header)
        verdict = self._verdict()
        if verdict[0] is Kind.FAILURE:
            return verdict
        self._link.send(Kind.PUSH, frame.header, frame.body_bytes)
        broken: NetworkError | None = None
        for room in self._link.buffers(frame.body_bytes):
            if broken is None:
                try:
                    arrival.connection.read_into(room)
                    arrival.unread -= len(room)
                except NetworkError as fault:
                    broken = fault  # the executor still gets a body of the full length, whatever is in it
        if broken is not None:
            verdict = (Kind.FAILURE, failure(f"the values stopped arriving: {broken}"))
            self._link.send(*verdict)
            return verdict
        self._link.send(Kind.ANSWER, Done())
        return self._verdict()

    def _verdict(self) -> Verdict:
        frame = self._link.receive()
        match frame.kind, frame.message(VOCABULARY), frame.body_bytes:
            case (Kind.ANSWER, Done() as message, 0) | (Kind.FAILURE, Failure() as message, 0):
                return (frame.kind, message)
            case _:
                raise _out_of_turn(frame)


def receive_push(connection: Connection, *, rendezvous: Rendezvous, move_wait_s: float, closing: Wakeup) -> None:
    """Serves a connection that another worker has opened to push values: one push, one answer.

    Raises:
        NetworkError: the connection ended. WireError: not a push.
    """
    frame = connection.receive(wait_s=_MARGIN_S)
    message = frame.message(VOCABULARY)
    if not isinstance(message, Delivery):
        raise _out_of_turn(frame)
    check_body(message, frame.body_bytes)
    arrival = Arrival(connection, frame)
    verdict: Verdict
    try:
        verdict = rendezvous.bring(
            connection.peer, message.ticket, arrival, until=monotonic() + move_wait_s, unless=closing.fileno()
        )
    except MoveError as fault:
        verdict = (Kind.FAILURE, failure(str(fault)))
    if arrival.unread <= _DRAIN_BYTES:
        connection.skip(arrival.unread)
    connection.send(*verdict)


def _out_of_turn(frame: Frame) -> WireError:
    return MessageError(f"{frame.kind.name} has no place at this point of a move")
