"""The relay of one caller's session: its frames go to an executor of its own, and the executor's answers come back.

The listener looks at a frame's kind and lengths only. A body passes from TLS into the memory that the executor reads it
from, a MiB at a time; when the executor is busy, the listener stops reading, and TCP holds the caller back. Every wait
also notices when the executor dies, when the caller goes, and when the node closes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Final

from cloister.errors import (
    CloisterError,
    CpuLimitError,
    MessageError,
    NetworkError,
    NoAnswerError,
    SessionEndedError,
    WireError,
    WorkerCrashedError,
    WorkerError,
)
from cloister.net.connection import Connection, Frame
from cloister.net.handshake_server import refuse
from cloister.net.polling import HUNG_UP, READABLE, Wakeup, Watched, wait
from cloister.net.proving import Prover
from cloister.node.running import Ending, Running, Session
from cloister.node.session.child import Child
from cloister.wire.frames import Kind
from cloister.wire.messages import Refusal, RefusalCode
from cloister.wire.sessions import Failure

_log: Final = logging.getLogger(__name__)
_FRAME_S: Final = 30.0
"""The time from the moment that a caller's socket is readable to a frame's first byte. It equals the time that
``Connection`` gives a write: to change a socket's time-out costs a system call for each frame."""

_REFUSALS: Final[Mapping[type[WorkerError], RefusalCode]] = {
    WorkerCrashedError: "crashed",
    SessionEndedError: "ended",
    CpuLimitError: "cpu",
}

_OUT_OF_TURN: Final = "it spoke out of turn, and was ended"


class Watch:
    """Waits for an executor's link with an eye on the caller and on the node.

    When the caller goes, or the node closes, the executor gets the grace period to finish what it was given. Once that
    is over every wait ends in ``NoAnswerError``.
    """

    def __init__(self, caller: Connection, *, closing: Wakeup, grace_s: float) -> None:
        self._caller = caller
        self._closing = closing
        self._grace_s = grace_s
        self._watched: dict[tuple[int, int], Watched] = {}
        self.until: float | None = None

    def __call__(self, descriptor: int, events: int) -> None:
        while descriptor not in (happened := self._wait(descriptor, events)):
            if not happened:
                raise NoAnswerError("the grace period is over")
            self.start_grace()

    def _wait(self, descriptor: int, events: int) -> set[int]:
        if self.until is not None:
            return wait({descriptor: events}, until=self.until)
        watched = self._watched.get((descriptor, events))
        if watched is None:
            others = {self._caller.fileno(): HUNG_UP, self._closing.fileno(): READABLE}
            watched = self._watched[descriptor, events] = Watched({descriptor: events, **others})
        return watched.wait(until=None)

    @property
    def over(self) -> bool:
        """Whether the grace period has passed."""
        return self.until is not None and monotonic() >= self.until

    def start_grace(self) -> None:
        if self.until is None:
            self.until = monotonic() + self._grace_s


class Relay:
    """Relays one session's frames until the caller leaves, the executor dies or the node closes."""

    def __init__(
        self,
        caller: Connection,
        child: Child,
        *,
        closing: Wakeup,
        grace_s: float,
        session: Session,
        running: Running,
        release: Callable[[], None],
        prover: Prover | None = None,
    ) -> None:
        self._session = session
        self._running = running
        self._caller = caller
        self._child = child
        self._link = child.session
        self._closing = closing
        self._watch = Watch(caller, closing=closing, grace_s=grace_s)
        self._idle = Watched({end.fileno(): READABLE for end in (caller, child.session, closing)})
        self._release = release
        self._prover = prover
        self._unread = 0  # of the caller's frame
        self._asked = False  # the caller waits for an answer
        self._answering = False  # and has received a part of it
        self._how = ""

    def run(self) -> str:
        """Runs until the session is over, and returns how it ended: a few words for the log."""
        self._link.wait = self._watch
        try:
            while self._may_go_on() and self._forward(self._caller.receive(wait_s=_FRAME_S)):
                pass
            return self._how
        except EOFError:
            return self._last_words() or self._bury(None)
        except WorkerCrashedError as fault:
            return self._bury(str(fault))
        except WireError as fault:
            refuse(self._caller, "protocol", text=str(fault))
            return f"it broke the protocol: {fault}"
        except NetworkError as fault:
            return str(fault)
        finally:
            self._let_finish()

    def _may_go_on(self) -> bool:
        """Waits for the caller's next frame. When the node closes, it tells the caller and returns False."""
        # A caller that never pauses must not hide the other two.
        happened = self._idle.wait(until=0.0 if self._caller.pending() else self._watch.until)
        if self._link.fileno() in happened:
            return self._heed(self._from_executor())
        if self._closing.fileno() in happened:
            self._watch.start_grace()
            # Frames that were sent before the node closed are still served.
            more = self._caller.fileno() in happened or self._caller.pending() > 0
            if not more or self._watch.over:
                refuse(self._caller, "closing", text="this worker is closing; connect again when it is back")
                self._how = "the node closes"
                return False
        return True

    def _forward(self, frame: Frame) -> bool:
        """Relays one frame, and the answer if it asks for one; False when the session is over."""
        if frame.kind is Kind.CHALLENGE and self._prover is not None:
            self._how = "it was refused a proof"  # if the session ends here
            return self._prover.serve(frame)
        if frame.kind not in (Kind.BATCH, Kind.ASK):
            raise MessageError(f"{frame.kind.name} has no place in a session")
        self._session.heard()
        self._asked, self._unread = frame.kind is Kind.ASK, frame.body_bytes
        self._link.send(frame.kind, frame.header, frame.body_bytes)
        for room in self._link.buffers(frame.body_bytes):
            self._caller.read_into(room)
            self._unread -= len(room)
            self._session.heard()
        return self._answer() if self._asked else True

    def _answer(self) -> bool:
        frame = self._from_executor()
        if frame.kind not in (Kind.ANSWER, Kind.FAILURE):
            return self._heed(frame)
        self._answering = True
        self._caller.send_raw(frame.kind, frame.header, frame.body_bytes)
        for piece in self._link.pieces(frame.body_bytes):
            self._caller.send_body(piece)
        self._asked = self._answering = False
        self._session.heard()
        return True

    def _from_executor(self) -> Frame:
        try:
            return self._link.receive()
        except WireError:
            raise WorkerCrashedError(_OUT_OF_TURN) from None

    def _heed(self, frame: Frame) -> bool:
        """Passes on an executor's refusal, the only frame that it may send unasked. The session is then over: False."""
        try:
            message = frame.message()
        except WireError:
            message = None
        if not isinstance(message, Refusal) or frame.body_bytes:
            raise WorkerCrashedError(_OUT_OF_TURN)
        refuse(self._caller, message.code, text=message.text)
        self._how = f"its executor refused to go on: {message.text}"
        return False

    def _last_words(self) -> str:
        """Passes on the last words of an executor that is gone, and returns them; empty if there are none."""
        self._link.wait = _no_more
        with suppress(EOFError, NetworkError, WorkerCrashedError):
            self._heed(self._from_executor())
        return self._how

    def _bury(self, reason: str | None) -> str:
        """Ends an executor that is gone or has to go, and tells the caller, at its next question at the latest."""
        self._release()
        ending = self._session.ending or self._crash(reason or self._child.reason())
        how = f"its process was ended: {ending.text}"
        if ending.counts:
            at = self._link.slate.read().does or "no operation"
            _log.warning(
                "session %d of %s: executor %d at %s: %s (%s)",
                *(self._session.number, self._session.researcher.name, self._child.pid, at),
                *(ending.text, self._running.crashed(self._session)),
            )
        with suppress(CloisterError), self._running.telling(self._caller.peer, self._caller):
            if not self._answering and self._hear_out():
                self._caller.send(Kind.FAILURE, Failure(code=ending.error.code, op="", site=0, text=ending.text))
                refuse(self._caller, _REFUSALS[ending.error], text=ending.text)
        return how

    def _crash(self, reason: str) -> Ending:
        at = self._link.slate.read().does
        where = f" in {at}" if at else ""
        text = f"the session's process died{where}: {reason}. What it held is gone; connect again for a new session"
        return Ending(WorkerCrashedError, text, counts=True)

    def _hear_out(self) -> bool:
        """Reads and discards the caller's frames up to its next question: a caller whose connection breaks while it
        still sends would never read why. False if the node closes before."""
        self._caller.skip(self._unread)
        while not self._asked:
            watched = {self._caller.fileno(): READABLE, self._closing.fileno(): READABLE}
            happened = wait(watched, until=0.0 if self._caller.pending() else None)
            if self._closing.fileno() in happened:
                return False
            frame = self._caller.receive(wait_s=_FRAME_S)
            self._caller.skip(frame.body_bytes)
            self._asked = frame.kind is Kind.ASK
        return True

    def _let_finish(self) -> None:
        """Sends the executor no more frames, and lets it finish those that it has."""
        self._watch.start_grace()
        self._link.finish()
        with suppress(EOFError, CloisterError):
            while True:
                self._link.skip(self._link.receive().body_bytes)


def _no_more(descriptor: int, events: int) -> None:
    raise EOFError("the executor has said nothing more")
