"""What the operating system holds an executor to. Linux only; each call's manual page is named beside it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_SLACK_BYTES: Final = 256 << 20
"""For the allocator's arenas and PyTorch's own tables, beyond what a session holds."""
_THREAD_BYTES: Final = 16 << 20
"""For each thread: a stack of 8 MiB in each of PyTorch's two pools."""


def confine(listener: int) -> None:
    """Ties this process to its listener, and keeps its memory out of core files.

    Raises:
        EOFError: the listener is gone already.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the listener
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # getrlimit(2)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != listener:  # it died before the line above took effect
        raise EOFError("the listener is gone")


def limit_memory(more_bytes: int, *, threads: int) -> None:
    """Lets the process's private memory grow by ``more_bytes``, stacks for ``threads`` threads, and some slack.

    A backstop: a session's limit is checked from shapes before an operation runs, which leaves out what the operation
    needs for itself meanwhile. RLIMIT_DATA counts private writable memory (Linux 4.7 and later) and leaves out what is
    reserved only; RLIMIT_AS would count torch's libraries and every reservation too.
    """
    limit = _private_bytes() + more_bytes + threads * _THREAD_BYTES + _SLACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _private_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:  # proc_pid_status(5)
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("no VmData in /proc/self/status")
