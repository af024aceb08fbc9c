"""Who may be shaking hands: a bound on what strangers can hold, in all and for each address they come from."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import Final

_WAITING: Final = 64


class Door:
    """Places for handshakes under way.

    A source that has its share of them waits outside, within bounds, and is let in when one of its own has finished: a
    burst from one research machine is served in turn, and a flood from it leaves the other places free.
    """

    def __init__(self, *, places: int, per_source: int) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._per_source = per_source
        self._lock = threading.Lock()
        self._inside: dict[str, int] = {}
        self._waiting: dict[str, deque[socket.socket]] = {}
        self._waiting_count = 0
        self._closed = False

    def wait(self) -> None:
        """Returns when a place is free, and holds it. That takes a handshake's time at most."""
        self._places.acquire()

    def enter(self, raw: socket.socket, source: str) -> bool:
        """Whether ``raw`` may shake hands now, in the place that ``wait`` holds. Otherwise it waits, or is closed."""
        with self._lock:
            inside = self._inside.get(source, 0)
            if not self._closed and inside < self._per_source:
                self._inside[source] = inside + 1
                return True
            waits = not self._closed and self._waiting_count < _WAITING
            if waits:
                self._waiting.setdefault(source, deque()).append(raw)
                self._waiting_count += 1
        if not waits:
            raw.close()
        self._places.release()
        return False

    def give_up(self) -> None:
        """Gives back the place that ``wait`` holds."""
        self._places.release()

    def leave(self, source: str) -> socket.socket | None:
        """Gives a place back, or to the next one from ``source``, which is returned and shakes hands in its turn."""
        with self._lock:
            queue = self._waiting.get(source)
            if queue:
                self._waiting_count -= 1
                following = queue.popleft()
                if not queue:
                    del self._waiting[source]
                return following
            self._inside[source] -= 1
            if not self._inside[source]:
                del self._inside[source]
        self._places.release()
        return None

    def close(self) -> None:
        """Closes on all who wait, now and later."""
        with self._lock:
            self._closed = True
            waiting = [raw for queue in self._waiting.values() for raw in queue]
            self._waiting.clear()
            self._waiting_count = 0
        for raw in waiting:
            with contextlib.suppress(OSError):
                raw.close()
