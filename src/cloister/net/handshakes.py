"""One thread that accepts connections and shakes hands on all of them at once; ``door`` says with whom next.

A turn takes about a millisecond, and a handshake takes two. A peer that only connects costs a descriptor. One that says
something costs two more, and a TLS state of 0.15 MB at the very most.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import ssl
from collections.abc import Callable
from time import monotonic, sleep, thread_time
from typing import Final

from cloister.errors import NetworkError, UnreachableError
from cloister.net import tcp
from cloister.net.bounded_log import BoundedLog
from cloister.net.door import HandshakeLimiter
from cloister.net.tls import Handshake

_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_AT_ONCE: Final = 64
"""How many are let in at a time: the queue in the kernel is first come, first served, and so has to be short."""
_TURNS_S: Final = 0.005
"""How long others have their turns before the next are let in, in seconds."""


class Handshakes:
    """Shakes hands with whoever connects to ``listening``, which does not block, until ``run`` is told to stop.

    Args:
        proved: takes a connection, the fingerprint that its other end has proved, and its source; returns whether the
            connection is served. It must not wait.
    """

    def __init__(
        self,
        listening: socket.socket,
        *,
        context: ssl.SSLContext,
        door: HandshakeLimiter[Handshake],
        proved: Callable[[ssl.SSLSocket, str, str], bool],
        log: BoundedLog,
    ) -> None:
        self._listening = listening
        self._context = context
        self._door = door
        self._proved = proved
        self._log = log
        self._callers: dict[int, Handshake] = {}

    def run(self, *, stopped: Callable[[], bool]) -> None:
        """Returns once it is ``stopped`` and something happens to the listening socket. Handshakes under way end."""
        if stopped():
            return
        try:
            with select.epoll() as poll:
                self._poll = poll
                poll.register(self._listening, select.EPOLLIN)
                while not stopped():
                    self._round()
        finally:
            for caller in self._callers.values():
                caller.close()

    def _round(self) -> None:
        moments = [moment for moment in (self._door.until(), self._log.until) if moment is not None]
        happened = self._poll.poll(max(0.0, min(moments) - monotonic()) if moments else None)
        come = False
        for descriptor, event in happened:
            if descriptor in self._callers:
                self._hear(self._callers[descriptor], event)
            else:
                come = True
        if come:
            self._let_in()
        for late, spoke in self._door.late(monotonic()).items():
            self._end(late, "the handshake took too long" if spoke else "it said nothing")
        self._log.flush()
        until = monotonic() + _TURNS_S
        while monotonic() < until and (caller := self._door.turn()) is not None:
            began = thread_time()
            in_vain = not self._advance(caller)
            self._door.spend(caller.source, thread_time() - began, in_vain=in_vain)

    def _hear(self, caller: Handshake, event: int) -> None:
        self._door.hear(caller)
        try:
            if event & select.EPOLLERR:
                raise UnreachableError("it left")
            if caller.arrived():
                self._door.ready(caller)
            else:
                self._poll.modify(caller.descriptor, _ONCE)
        except Exception as fault:  # noqa: BLE001
            self._drop(caller, fault)

    def _let_in(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                raw, peer = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as fault:
                if fault.errno in _OUT_OF_RESOURCES:
                    self._make_room(fault)
                return
            raw.setblocking(False)
            caller = Handshake(raw, context=self._context, source=tcp.source_of(peer))
            self._callers[caller.descriptor] = caller
            self._poll.register(raw, _ONCE)
            loser = self._door.enter(caller, caller.source, monotonic())
            if loser is not None:
                self._end(loser, "others needed its place")

    def _make_room(self, fault: OSError) -> None:
        self._log.note(logging.WARNING, "", "cannot accept connections: %s", fault.strerror)
        loser = self._door.crowded_out()
        if loser is not None:
            self._end(loser, "others needed its place")
        else:
            sleep(0.1)  # something comes free when a connection ends; nothing tells us, and nobody is here to be served

    def _advance(self, caller: Handshake) -> bool:
        """Whether anything may come of it."""
        try:
            over = caller.advance()
            if over is None:
                self._poll.modify(caller.descriptor, _ONCE)
                return True
        except Exception as fault:  # noqa: BLE001
            if isinstance(fault, OSError) and fault.errno in _OUT_OF_RESOURCES:
                self._door.ready(caller)  # again
                self._make_room(fault)
                return True
            self._drop(caller, fault)
            return False
        self._door.leave(caller)
        del self._callers[caller.descriptor]
        return self._proved(*over, caller.source)

    def _drop(self, caller: Handshake, fault: Exception) -> None:
        """A fault of ours with one connection must not be the others'."""
        self._door.leave(caller)
        self._end(caller, str(fault), trace=not isinstance(fault, NetworkError))

    def _end(self, caller: Handshake, why: str, *, trace: bool = False) -> None:
        """Of one that has left the door."""
        del self._callers[caller.descriptor]
        caller.close()
        level = logging.ERROR if trace else logging.INFO
        self._log.note(level, caller.source, "a connection from %s ended: %s", caller.source, why, trace=trace)
