"""Executors kept warm, so that opening a session does not cost an import of torch. Each serves one session and is
killed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from cloister.errors import WorkerCrashedError
from cloister.node.child import Child

_log: Final = logging.getLogger(__name__)
_ATTEMPTS: Final = 2
_START_S: Final = 120.0
"""How long an executor may take to warm up: a cold disk and a busy machine included."""
_PAUSE_S: Final = 1.0
"""Between attempts to start a process that the system refused."""
_LEAVING_S: Final = 3.0
"""How long a caller waits for a place, before it hears that there is none: a session that was left just now takes a
moment to be over."""


class Pool:
    """Executors for at most ``sessions`` sessions at once, ``spares`` of them started ahead of time.

    One thread starts all of them and lives as long as the pool, because an executor dies with the thread that started
    it.
    """

    def __init__(self, start: Callable[[], Child], *, sessions: int, spares: int) -> None:
        self._start = start
        self._sessions = sessions
        self._spares = spares
        self._changed = threading.Condition()
        self._waiting: deque[Child] = deque()
        self._serving: set[Child] = set()
        self._admitted = 0
        self._asking = 0
        self._closed = False
        self._thread = threading.Thread(target=self._replenish, name="cloister executors", daemon=True)
        self._thread.start()

    def warm(self) -> None:
        """Waits until the first spare executor is ready, so that a node that cannot work says so at its start.

        Raises:
            WorkerCrashedError: it cannot be started.
        """
        if not self._spares:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            child = self._waiting[0] if self._waiting else None
        if child is None or not child.wait_ready(within_s=_START_S):
            raise WorkerCrashedError("executors cannot be started on this machine; the lines above say why")

    def admit(self) -> Child | None:
        """An executor for a new session, or None when the node has all the sessions that it may have.

        Raises:
            WorkerCrashedError: none can be started.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._admitted < self._sessions or self._closed, timeout=_LEAVING_S)
            if self._admitted >= self._sessions or self._closed:
                return None
            self._admitted += 1
        child = None
        try:
            child = self._ready()
        finally:
            with self._changed:
                if child is None:
                    self._admitted -= 1
                    self._changed.notify_all()
                else:
                    self._serving.add(child)
        return child

    def _ready(self) -> Child:
        for _ in range(_ATTEMPTS):
            child = self._take()
            if child.wait_ready(within_s=_START_S):
                return child
            child.end()
        raise WorkerCrashedError("this worker cannot start an executor at present; its log says why")

    def release(self, child: Child) -> None:
        """Ends a session's executor. May be called twice."""
        child.end()
        with self._changed:
            if child in self._serving:
                self._serving.remove(child)
                self._admitted -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Ends every executor. For when no session is being opened any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        for child in [*self._waiting, *self._serving]:
            child.end()

    def _take(self) -> Child:
        """The oldest spare, or the next one to be started."""
        with self._changed:
            self._asking += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    raise WorkerCrashedError("this worker is closing")
                child = self._waiting.popleft()
            finally:
                self._asking -= 1
            self._changed.notify_all()
            return child

    def _wanting(self) -> bool:
        ahead = min(self._spares, self._sessions - self._admitted)
        return len(self._waiting) < self._asking + max(0, ahead)

    def _replenish(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanting())
                if self._closed:
                    return
            try:
                child = self._start()
            except OSError as fault:
                _log.error("cannot start an executor: %s", fault.strerror or fault)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_S)
                continue
            with self._changed:
                self._waiting.append(child)
                self._changed.notify_all()
