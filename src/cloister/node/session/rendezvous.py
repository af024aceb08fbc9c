"""Where a push that another worker makes meets the session that awaits it.

They find each other by the pusher's key, which TLS has proved, and the ticket, 32 random bytes that only the caller of
both sessions has made up: neither a stranger nor another worker or caller can take the place of one of them. Either may
come first. A push that waits holds a connection and its header, nothing more; its values stay where they come from.
"""

from __future__ import annotations

import threading
from typing import Final

from cloister.errors import MoveError
from cloister.net.connection import Connection, Frame
from cloister.net.polling import HUNG_UP, READABLE, Wakeup, wait
from cloister.wire.frames import Kind
from cloister.wire.sessions import Done, Failure

WAITING_PER_PEER: Final = 16
"""Pushes of one worker that may wait at a time, for sessions that have not come to them yet."""

Verdict = tuple[Kind, Done | Failure]
_Key = tuple[str, bytes]


class Arrival:
    """A push that has arrived: its connection, which whoever takes it may read the body from, and its frame."""

    def __init__(self, connection: Connection, frame: Frame) -> None:
        self.connection = connection
        self.frame = frame
        self.unread = frame.body_bytes
        self._settled = Wakeup()
        self._verdict: Verdict | None = None

    def settle(self, verdict: Verdict) -> None:
        """Says what has become of it. The connection is the pusher's thread's again."""
        self._verdict = verdict
        self._settled.set()

    def wait(self, *, until: float, unless: int) -> Verdict | None:
        """What has become of it; None at the moment ``until``, when ``unless`` is readable, or when the pusher is
        gone."""
        watched = {self._settled.fileno(): READABLE, unless: READABLE, self.connection.fileno(): HUNG_UP}
        wait(watched, until=until)
        return self._verdict

    def verdict(self) -> Verdict | None:
        """What has become of it, once somebody has taken it: that one always settles it."""
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
        """Waits for a push and takes it; whoever takes it must settle it.

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
            # One that was offered may have been withdrawn just now; then the meeting is another, or none.
            if self._meetings.get(key) is meeting:
                del self._meetings[key]
                if meeting.arrival is not None:
                    return meeting.arrival
        raise MoveError("the other worker did not send the values in time")

    def _waiting(self, peer: str) -> int:
        return sum(
            1 for (pusher, _), meeting in self._meetings.items() if pusher == peer and meeting.arrival is not None
        )
