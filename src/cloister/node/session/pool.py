"""Executors kept warm, so that opening a session does not cost an import of torch. Each serves one session and is
killed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from typing import Final

from cloister.errors import WorkerCrashedError
from cloister.node.session.child import Child

_log: Final = logging.getLogger(__name__)
_ATTEMPTS: Final = 2
_START_S: Final = 120.0
"""The time that an executor has to warm up, even with a cold disk and a busy machine."""
_PAUSE_S: Final = 1.0
"""The pause between attempts to start a process that the system refused."""
_LEAVING_S: Final = 3.0
"""The time that a caller waits for a place before it is told that there is none: a session that was left just now takes
a moment to end."""


class Pool:
    """Executors for at most ``sessions`` sessions at once, of which ``spares`` are started in advance.

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
        self._faults = 0
        self._fault: tuple[int | None, str] = (None, "")  # the last: its number and text
        self._closed = False
        self._thread = threading.Thread(target=self._replenish, name="cloister executors", daemon=True)
        self._thread.start()

    def warm(self) -> None:
        """Waits until the first spare executor is ready, so that a node that cannot work says so when it starts.

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

    def admit(self, *, tell: Callable[[float], None] = lambda _: None) -> Child | None:
        """Gives an executor for a new session, or None when the node has all the sessions that it may have.

        Args:
            tell: called at most once, before the first wait, with the longest time that this may take, in seconds.

        Raises:
            WorkerCrashedError: none can be started.
            OSError: the system starts no process at present.
        """
        told = cache(partial(tell, _LEAVING_S + _ATTEMPTS * 2 * _START_S))
        with self._changed:
            full = self._admitted >= self._sessions
        if full:
            told()
        with self._changed:
            self._changed.wait_for(lambda: self._admitted < self._sessions or self._closed, timeout=_LEAVING_S)
            if self._admitted >= self._sessions or self._closed:
                return None
            self._admitted += 1
        child = None
        try:
            child = self._ready(told)
        finally:
            with self._changed:
                if child is None:
                    self._admitted -= 1
                    self._changed.notify_all()
                else:
                    self._serving.add(child)
        return child

    def _ready(self, told: Callable[[], None]) -> Child:
        for _ in range(_ATTEMPTS):
            child = self._take(within_s=0.0)
            if child is None:
                told()
                child = self._take(within_s=_START_S)
            if child is None:
                break
            try:
                if not child.prompt:
                    told()
                if child.wait_ready(within_s=_START_S):
                    return child
            except BaseException:  # the caller is gone
                child.end()
                raise
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
        """Ends every executor. No session may be opened at the same time or after it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        for child in [*self._waiting, *self._serving]:
            child.end()

    def _take(self, *, within_s: float) -> Child | None:
        """Takes the oldest spare, or the next one that is started; None if there is none in time.

        Raises:
            WorkerCrashedError: the pool is closed. OSError: the system does not let one be started.
        """
        with self._changed:
            self._asking += 1
            self._changed.notify_all()
            try:
                began = self._faults
                self._changed.wait_for(lambda: self._waiting or self._closed or self._faults != began, timeout=within_s)
                if self._waiting:
                    return self._waiting.popleft()
                if self._closed:
                    raise WorkerCrashedError("this worker is closing")
                if self._faults != began:
                    raise OSError(*self._fault)
                return None
            finally:
                self._asking -= 1
                self._changed.notify_all()

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
                    self._faults, self._fault = self._faults + 1, (fault.errno, fault.strerror or str(fault))
                    self._changed.notify_all()  # those who wait now hear of it
                    self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_S)
                continue
            with self._changed:
                self._waiting.append(child)
                self._changed.notify_all()
