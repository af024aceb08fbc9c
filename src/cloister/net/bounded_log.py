"""A log that those who connect cannot fill: the first lines of each source are written, the others counted."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

_NAMED: Final = 3
_OTHERS: Final = "elsewhere"


class BoundedLog:
    """Writes to ``log``: in each ``window_s`` seconds at most ``each`` lines for a source and ``total`` in all, and at
    its end one line that counts what was left out. It remembers ``total`` sources. May be used by several threads."""

    def __init__(
        self,
        log: logging.Logger,
        *,
        clock: Callable[[], float] = monotonic,
        window_s: float = 60.0,
        each: int = 5,
        total: int = 60,
    ) -> None:
        self._log = log
        self._clock = clock
        self._window_s = window_s
        self._each = each
        self._total = total
        self._lock = threading.Lock()
        self._told: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._lines = 0
        self.until: float | None = None
        """When ``flush`` has something to write."""

    def note(self, level: int, source: str, text: str, *values: object, trace: bool = False) -> None:
        """Logs ``text`` with its ``values``, about a connection from ``source``, or counts it."""
        self.flush()
        with self._lock:
            if self.until is None:
                self.until = self._clock() + self._window_s
            told = self._lines < self._total and self._told[source] < self._each
            if told:
                self._told[source] += 1
                self._lines += 1
            else:
                known = source in self._left_out or len(self._left_out) < self._total
                self._left_out[source if known else _OTHERS] += 1
        if told:
            self._log.log(level, text, *values, exc_info=trace)

    def flush(self, *, end: bool = False) -> None:
        """Says what was left out, where the window is over or this is the ``end``."""
        with self._lock:
            if self.until is None or not (end or self._clock() >= self.until):
                return
            left_out, self._left_out, self._told = self._left_out, Counter(), Counter()
            self._lines, self.until = 0, None
        if left_out:
            most = ", ".join(f"{count} from {source}" for source, count in left_out.most_common(_NAMED))
            self._log.info("%d more lines on connections were left out (%s)", left_out.total(), most)
