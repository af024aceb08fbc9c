"""One executor process, seen from the listener."""

from __future__ import annotations

import logging
import os
import signal
import site
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO, Final, cast

import msgspec

import cloister
from cloister.errors import NoAnswerError, WireError
from cloister.net.waiting import wait
from cloister.node.data_files import ShelfEntry
from cloister.node.link import Link, pair
from cloister.wire.frames import Kind

_log: Final = logging.getLogger(__name__)
_END_S: Final = 5.0
"""How long a killed process may take to be gone."""


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an executor is told at its start: the first line of its standard input."""

    listener: int
    memory_bytes: int
    objects: int
    device: str
    threads: int


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it is told when its session opens: the rest of its standard input. Keys that came after it was started are
    in it, and no key waits in a process that serves nobody."""

    data_sets: tuple[ShelfEntry, ...]


class Child:
    """An executor process with its two links: ``session`` for what the caller asks, ``moves`` for pushing and
    taking."""

    def __init__(self, process: subprocess.Popen[bytes], *, session: Link, moves: Link) -> None:
        self.session = session
        self.moves = moves
        self._process = process
        self._input = cast(IO[bytes], process.stdin)
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    def start(cls, assignment: Assignment) -> Child:
        """Starts a process, which warms up by itself (``wait_ready``).

        It dies with the *thread* that started it (PR_SET_PDEATHSIG, prctl(2)): that thread must last as long as the
        node.

        Raises:
            OSError: the system gives no more processes, descriptors or memory.
        """
        (session, session_there), (moves, moves_there) = pair(), pair()
        try:
            descriptors = [*session_there.descriptors(), *moves_there.descriptors()]
            process = subprocess.Popen(
                # -P, -s: no module comes from the working directory or the user's own packages.
                [sys.executable, "-P", "-s", "-m", "cloister.node.executor", *map(str, descriptors)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                pass_fds=descriptors,
                start_new_session=True,  # the terminal's Ctrl-C is for the listener, which ends its executors
            )
        except BaseException:
            session.close()
            moves.close()
            raise
        finally:
            session_there.close()
            moves_there.close()
        child = cls(process, session=Link(session), moves=Link(moves))
        with suppress(BrokenPipeError):  # dead already: `wait_ready` says so
            child._input.write(msgspec.json.encode(assignment) + b"\n")
            child._input.flush()
        return child

    def open(self, data_sets: Sequence[ShelfEntry]) -> None:
        """Opens its session: it serves from now on what comes over ``session``. Once, when it is ready."""
        with suppress(BrokenPipeError), self._input as pipe:  # dead already: the session's first frame says so
            pipe.write(msgspec.json.encode(Opening(tuple(data_sets))))

    def wait_ready(self, *, within_s: float) -> bool:
        """Whether the process has warmed up; False when it has died, is not one of ours, or takes too
        long."""
        if not self._ready:
            until = monotonic() + within_s

            def wait_until(descriptor: int, events: int) -> None:
                if not wait({descriptor: events}, until=until):
                    raise NoAnswerError(f"an executor did not start within {within_s:g} s")

            self.session.wait = wait_until
            try:
                self._ready = self.session.receive().kind is Kind.ANSWER
            except (EOFError, NoAnswerError, WireError) as fault:
                _log.error("executor %d did not start: %s", self.pid, fault)
        return self._ready

    def wait_end(self, *, until: float) -> bool:
        """Whether the process has ended by itself before the moment ``until`` (``time.monotonic``)."""
        try:
            self._process.wait(max(0.0, until - monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def reason(self) -> str:
        """Why the process ended, for the caller to read: a signal or an exit status."""
        if not self.wait_end(until=monotonic() + _END_S):
            return "it stopped talking"
        status = self._process.returncode
        if status >= 0:
            return f"it exited with status {status}"
        name = signal.Signals(-status).name if -status in {*signal.Signals} else f"signal {-status}"
        hint = {"SIGKILL": ": killed, perhaps for want of memory", "SIGSEGV": ": a crash in native code"}.get(name, "")
        return f"it was ended by {name}{hint}"

    def end(self) -> None:
        """Kills the process, if it lives, and waits until it is gone. May be called twice."""
        with suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self.pid, signal.SIGKILL)
        self.session.close()
        self.moves.close()
        with suppress(BrokenPipeError):
            self._input.close()
        if not self.wait_end(until=monotonic() + _END_S):
            _log.error("executor %d does not go away", self.pid)


_PASSED_ON: Final = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")
_ALLOCATOR: Final = {
    # glibc gives large blocks back to the system when they are freed, and each training step then takes the same memory
    # anew, page by page (a LeNet step: 1,700 page faults, a fifth of its time). A session's process keeps what it has,
    # within its limits, until it ends. mallopt(3).
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 24),
}
_PASSED_ON_PREFIXES: Final = ("CUDA_", "NVIDIA_")


def _environment() -> dict[str, str]:
    """What an executor may know of the listener's environment: no secrets, no switches of Python or PyTorch."""
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    kept |= _ALLOCATOR
    root = str(Path(cloister.__file__).parent.parent)
    if root not in site.getsitepackages():  # run from its sources
        kept["PYTHONPATH"] = root
    return kept
