"""The sessions that run on a node, and what ends them: their limits of time, and their owner.

Each session has a thread, which waits for its caller most of the time. One more thread looks at all of them: at the
clocks of their executors, and at how long nothing was asked. It ends a session by killing the executor; the session's
own thread finds it dead, and tells the caller why.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Final, NamedTuple, Protocol

from cloister.errors import CpuLimitError, PutOffError, SessionEndedError, UnreachableError, WorkerError
from cloister.net.connection import Connection
from cloister.node.config import Researcher, SessionLimits
from cloister.node.cpu import LEAST_S, Clock, Meter, Over
from cloister.node.crashes import Crashes
from cloister.node.slate import Slate

_log: Final = logging.getLogger(__name__)
_LEAVING_S: Final = 3.0
"""How long a caller waits for a session of its own that was left just now."""
_AGAIN: Final = "connect again for a new session"


class Ending(NamedTuple):
    """Why the node ends a session."""

    error: type[WorkerError]
    """For its caller."""
    text: str
    """A sentence for its caller: what happened, and what to do next."""
    counts: bool = False
    """Whether it counts as a crash does."""


class Place:
    """That a peer may have one more session (``Running.reserve``)."""

    def __init__(self, peer: str) -> None:
        self.peer = peer


class Executing(Protocol):
    """What is needed of an executor's process (``cloister.node.session.child.Child``)."""

    @property
    def pid(self) -> int: ...

    @property
    def slate(self) -> Slate: ...

    def kill(self) -> None:
        """From any thread."""


class Session:
    """One session that runs. Its own thread says when it hears from its caller (``heard``); others look and end it."""

    def __init__(
        self, number: int, researcher: Researcher, child: Executing, *, limits: SessionLimits, place: Place
    ) -> None:
        self.place = place
        self.number = number
        self.researcher = researcher
        self.since = datetime.now(UTC)
        self.ending: Ending | None = None
        self._child = child
        self._limits = limits
        self._clock = Clock(child.pid)
        self._meter = Meter(call_s=limits.call_cpu_s, all_s=limits.session_cpu_s, began_s=self._clock.read() or 0.0)
        self._heard = monotonic()

    def heard(self) -> None:
        """The caller has sent something."""
        self._heard = monotonic()

    def end(self, ending: Ending) -> None:
        """Ends it, from any thread; its caller hears why. The first reason stands."""
        if self.ending is None:
            self.ending = ending
            self._child.kill()

    def end_for_owner(self) -> None:
        """As ``end``, because the node's owner says so."""
        self.end(
            Ending(SessionEndedError, f"the worker's owner has ended this session; what it held is gone; {_AGAIN}")
        )

    def look(self) -> float:
        """Ends the session if it has used up what it may have; otherwise, after how many seconds to look again."""
        seen = self._child.slate.read()
        reading_s = self._clock.read()
        if reading_s is None or self.ending is not None:
            return self._limits.idle_s  # it is ending
        over = self._meter.look(reading_s, call=seen.turn)
        if over is Over.CALL:
            limit, what = self._limits.call_cpu_s, f"{seen.does or 'what was asked'} took longer than one call may"
            hint = "take smaller pieces or fewer repetitions"
            text = _sentence(what, limit, "call_cpu", f"{hint}, and {_AGAIN}")
            self.end(Ending(CpuLimitError, text, counts=True))
        elif over is Over.ALL:
            what = "the session took longer than one session may"
            self.end(Ending(CpuLimitError, _sentence(what, self._limits.session_cpu_s, "session_cpu", _AGAIN)))
        if seen.busy:
            self.heard()  # it is busy with what was asked
        idle_s = monotonic() - self._heard
        if idle_s >= self._limits.idle_s:
            text = f"nothing was asked of the session for {_time(self._limits.idle_s)}"
            self.end(
                Ending(SessionEndedError, f"{text}, the most here ([session], idle); what it held is gone; {_AGAIN}")
            )
        return max(min(self._meter.again_s, self._limits.idle_s - idle_s), LEAST_S)

    def account(self) -> Account:
        """What it has and does, for its owner."""
        seen = self._child.slate.read()
        reading_s = self._clock.read()
        if reading_s is not None:
            self._meter.look(reading_s, call=seen.turn)
        return Account(
            number=self.number,
            researcher=self.researcher.name,
            fingerprint=self.researcher.fingerprint,
            since=self.since.isoformat(timespec="seconds"),
            idle_s=0.0 if seen.busy else monotonic() - self._heard,
            cpu_s=self._meter.used_s,
            nbytes=seen.nbytes,
            objects=seen.objects,
            last=seen.does,
        )


class Account(NamedTuple):
    """A session as its owner sees it."""

    number: int
    researcher: str
    fingerprint: str
    since: str
    """ISO 8601, in UTC."""
    idle_s: float
    """Since its caller was last heard, in seconds; 0 while it is busy."""
    cpu_s: float
    """CPU time that it has used."""
    nbytes: int
    objects: int
    last: str
    """What it is at, or was at last: an operation's name, for instance. Its executor says so."""


class Running:
    """All sessions of a node.

    ``watch`` is for a thread of its own, and returns after ``close``.
    """

    def __init__(self, limits: SessionLimits, *, clock: Callable[[], float] = monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._sessions: dict[int, Session] = {}
        self._places: dict[str, set[Place]] = {}
        self._told: dict[str, deque[Connection]] = {}
        self._crashes = Crashes()
        self._closed = False

    def reserve(self, peer: str) -> Place:
        """A place for one session of this peer's, until it is freed.

        Raises:
            PutOffError: its sessions have crashed too often of late.
            UnreachableError: it has all the sessions that one peer may have.
        """
        with self._changed:
            left_s = self._crashes.left_s(peer, now=self._clock())
            if left_s:
                count = self._crashes.count(peer, now=self._clock())
                text = f"the last {count} sessions of this identity crashed; come again in {_time(left_s)}"
                raise PutOffError(f"{text}, and have the worker's owner look at its log", left_s)
            most = self._limits.sessions_per_researcher
            places = self._places.setdefault(peer, set())
            if not self._changed.wait_for(lambda: len(places) < most, timeout=_LEAVING_S):
                text = f"this identity has {most} sessions here, the most for one ([session], sessions_per_researcher)"
                raise UnreachableError(f"{text}; close one of them")
            place = Place(peer)
            places.add(place)
            return place

    def free(self, place: Place) -> None:
        """The peer may have one more session again. May be called twice."""
        with self._changed:
            self._places[place.peer].discard(place)
            self._changed.notify_all()

    def enter(self, session: Session) -> None:
        """It runs from now on."""
        with self._changed:
            self._sessions[session.number] = session
            self._changed.notify_all()

    def leave(self, session: Session) -> None:
        """It does not run any more, and its place is free. May be called twice."""
        with self._changed:
            self._sessions.pop(session.number, None)
        self.free(session.place)

    def crashed(self, session: Session) -> str:
        """Counts a crash, and says how many there were: for the log."""
        peer = session.researcher.fingerprint
        with self._changed:
            count = self._crashes.note(peer, now=self._clock())
            left_s = self._crashes.left_s(peer, now=self._clock())
            put_off = f"; put off for {_time(left_s)}" if left_s else ""
            return f"crash {count} of {session.researcher.name}, {self._crashes.total} in all{put_off}"

    @contextmanager
    def telling(self, peer: str, connection: Connection) -> Iterator[None]:
        """While this connection waits for a question, only to answer that its session is over. A peer has so many of
        these as it may have sessions; the oldest ends without a word where there are more."""
        with self._changed:
            told = self._told.setdefault(peer, deque())
            told.append(connection)
            if len(told) > self._limits.sessions_per_researcher:
                told.popleft().interrupt()
        try:
            yield
        finally:
            with self._changed, suppress(ValueError):  # interrupted
                told.remove(connection)

    def accounts(self) -> list[Account]:
        """All that run now, as they were opened."""
        with self._changed:
            sessions = list(self._sessions.values())
        return [session.account() for session in sessions]

    def end(self, number: int) -> bool:
        """Ends a session for the node's owner; False where no such session runs."""
        with self._changed:
            session = self._sessions.get(number)
        if session is None:
            return False
        _log.info("session %d of %s: ended by the node's owner", number, session.researcher.name)
        session.end_for_owner()
        return True

    def watch(self) -> None:
        """Ends sessions as their limits come; until ``close``."""
        while True:
            with self._changed:
                sessions = list(self._sessions.values())
            again_s = min((session.look() for session in sessions), default=None)
            with self._changed:
                known = [session.number for session in sessions]
                self._changed.wait_for(
                    lambda known=known: self._closed or any(number not in known for number in self._sessions),  # type: ignore[misc]
                    timeout=again_s,
                )
                if self._closed:
                    return

    def close(self) -> None:
        """Makes ``watch`` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _sentence(what: str, limit_s: float, key: str, hint: str) -> str:
    return f"{what}, {_time(limit_s)} of CPU time ([session], {key}), and the session was ended; {hint}"


def _time(seconds: float) -> str:
    """As a person writes it: ``90 s``, ``10 min``, ``8 h``."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and not seconds % size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1 else f"{round(seconds)} s"
