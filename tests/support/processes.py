"""Which processes are left of one that was started in a session of its own, and what a test waits for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """The processes below this one now, executors in sessions of their own included."""
    parents = _parents()
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def children(pid: int) -> set[int]:
    """The processes right below this one now."""
    return {child for child, parent in _parents().items() if parent == pid}


def _parents() -> dict[int, int]:
    """Each running process's parent (proc_pid_stat(5))."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(folder.name)] = int(parent)
    return parents


def running(pids: set[int]) -> set[int]:
    """Those of them that still run."""
    alive = set()
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                os.kill(pid, 0)
                alive.add(pid)
    return alive


def wait_until(so: Callable[[], object], *, within_s: float) -> bool:
    """Looks again and again, since another process gives no other sign."""
    end = time.monotonic() + within_s
    while not so():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
