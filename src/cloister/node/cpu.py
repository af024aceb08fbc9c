"""The CPU time that another process uses, held against what it may use.

Native code cannot be interrupted from within its process. So the listener reads the clock that the kernel keeps for the
child, which the child cannot turn back, and has it killed when it has used too much.
"""

from __future__ import annotations

import ctypes
import os
import time
from enum import Enum
from typing import Final

LEAST_S: Final = 0.02
"""Between two looks at a clock."""
_LOOKS: Final = 4
"""In the time that one call may take: a call that began just after a look ends with so much less accuracy."""


class Clock:
    """The CPU time of a process, all its threads together: ``clock_getcpuclockid(3)``."""

    def __init__(self, pid: int) -> None:
        found = ctypes.c_int()
        fault = ctypes.CDLL(None).clock_getcpuclockid(ctypes.c_int(pid), ctypes.byref(found))
        self._clock = None if fault else found.value

    def read(self) -> float | None:
        """In seconds; None where there is no such process any more."""
        try:
            return None if self._clock is None else time.clock_gettime(self._clock)
        except OSError:
            return None


class Over(Enum):
    """Of what a process has used more than it may."""

    CALL = "call"
    ALL = "all"


class Meter:
    """Holds readings of one process's clock against its limits. It knows no clock itself.

    A process with ``cores`` cores uses ``s`` seconds of CPU in no less than ``s / cores`` seconds: so long nobody has
    to look (``again_s``), and a node is not woken for sessions that are far from their limits.

    Args:
        call_s: what one call may use. Calls are told apart by their numbers (``look``). A call is first known of at the
            look after its beginning, and so may use up to a quarter more.
        all_s: what the process may use from the first reading on.
        began_s: the first reading.
    """

    def __init__(self, *, call_s: float, all_s: float, cores: int | None = None, began_s: float) -> None:
        self._call_s = call_s
        self._all_s = all_s
        self._cores = cores or len(os.sched_getaffinity(0))
        self._began_s = self._call_began_s = self._read_s = began_s
        self._call = 0

    @property
    def used_s(self) -> float:
        """In all, at the last reading."""
        return self._read_s - self._began_s

    def look(self, reading_s: float, *, call: int) -> Over | None:
        """Takes a reading, with the number of the call that the process is at; what is over, if anything is."""
        if call != self._call:
            self._call, self._call_began_s = call, reading_s
        self._read_s = reading_s
        if self.used_s > self._all_s:
            return Over.ALL
        return Over.CALL if reading_s - self._call_began_s > self._call_s else None

    @property
    def again_s(self) -> float:
        """How long, in seconds, until the next look has to be."""
        left = min(self._call_s - (self._read_s - self._call_began_s), self._call_s / _LOOKS, self._all_s - self.used_s)
        return max(left / self._cores, LEAST_S)
