"""A child process of the listener: it holds no key, has no network, and ends with the thread that started it.

What it writes to its error stream gets into the log through the listener. With the listener's own stream it could
write lines that look like the listener's, write over older ones, fill the disk, and, where that is a terminal, read
what is typed there.
"""

from __future__ import annotations

import logging
import os
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO, Final, Self, cast

import cloister
from cloister.node.ipc import End, Link, pair

_log: Final = logging.getLogger(__name__)
_END_S: Final = 5.0
"""How long a killed process may take to be gone."""
LOG_BYTES: Final = 1 << 16
"""What gets into the log of what one process writes."""
_LINE_BYTES: Final = 1 << 10


class Process:
    """A running child, with the listener's ends of its links."""

    def __init__(self, process: subprocess.Popen[bytes], ends: Sequence[End]) -> None:
        self.links = [Link(end) for end in ends]
        self._input = cast(IO[bytes], process.stdin)
        self._process = process
        written = cast(IO[bytes], process.stderr)
        self._echo = threading.Thread(target=_echo, args=(written, process.pid), name="cloister echo", daemon=True)
        self._echo.start()

    @classmethod
    def start(cls, module: str, *, links: int) -> Self:
        """Runs ``python -m module`` with the descriptors of its ends of so many links as arguments.

        It dies with the *thread* that started it (``confinement.tie``): that thread must last as long as the node.

        Raises:
            OSError: the system gives no more processes, descriptors or memory.
        """
        pairs = [pair() for _ in range(links)]
        try:
            descriptors = [number for _, there in pairs for number in there.descriptors()]
            process = subprocess.Popen(
                # -P, -s: no module comes from the working directory or the user's own packages.
                [sys.executable, "-P", "-s", "-m", module, *map(str, descriptors)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env=_environment(),
                pass_fds=descriptors,
                start_new_session=True,  # the terminal's Ctrl-C is for the listener, which ends its children
            )
        except BaseException:
            for here, _ in pairs:
                here.close()
            raise
        finally:
            for _, there in pairs:
                there.close()
        try:
            return cls(process, [here for here, _ in pairs])
        except BaseException:  # no memory can be mapped
            process.kill()
            process.wait(_END_S)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, data: bytes, *, last: bool = False) -> None:
        """Writes to its standard input, which ends there if this is the ``last`` that it is told. Where it is dead
        already, waiting for it says so."""
        with suppress(BrokenPipeError):
            self._input.write(data)
            self._input.flush()
        if last:
            self._stop_telling()

    def wait_end(self, *, until: float) -> bool:
        """Whether the process has ended by itself before the moment ``until`` (``time.monotonic``)."""
        try:
            self._process.wait(max(0.0, until - monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def reason(self) -> str:
        """Why the process ended, for a person to read: a signal or an exit status."""
        if not self.wait_end(until=monotonic() + _END_S):
            return "it stopped talking"
        status = self._process.returncode
        if status >= 0:
            return f"it exited with status {status}"
        name = signal.Signals(-status).name if -status in {*signal.Signals} else f"signal {-status}"
        hint = {"SIGKILL": ": killed, perhaps for want of memory", "SIGSEGV": ": a crash in native code"}.get(name, "")
        return f"it was ended by {name}{hint}"

    def kill(self) -> None:
        """Kills the process, if it lives. From any thread: the one that uses the links finds them ended."""
        with suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kills the process, if it lives, and waits until it is gone. May be called twice."""
        self.kill()
        for link in self.links:
            link.close()
        self._stop_telling()
        if not self.wait_end(until=monotonic() + _END_S):
            _log.error("process %d does not go away", self.pid)
        self._echo.join(_END_S)

    def _stop_telling(self) -> None:
        with suppress(BrokenPipeError):
            self._input.close()


def _echo(written: IO[bytes], pid: int) -> None:
    """Puts what a process writes into the log, a line at a time, until it ends; of what is too much, nothing."""
    left = LOG_BYTES
    with written:
        while line := written.readline(_LINE_BYTES):
            if left > 0:
                _log.warning("process %d: %s", pid, _printable(line))
                left -= len(line)
                if left <= 0:
                    _log.warning("process %d writes too much; no more of it is written here", pid)


def _printable(line: bytes) -> str:
    text = line.removesuffix(b"\n").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


_KERNELS: Final = ("ATEN_CPU_CAPABILITY", "MKL_CBWR")
"""Which kernels PyTorch and MKL take: an owner that needs the same last bits on different processors chooses them."""
_PASSED_ON: Final = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", *_KERNELS)
_ONE_THREAD: Final = {
    # NumPy's library would start threads when it is loaded, and a child is confined by its only thread. Its arithmetic
    # is PyTorch's, whose threads come later.
    "OPENBLAS_NUM_THREADS": "1",
}
_ALLOCATOR: Final = {
    # glibc gives large blocks back to the system when they are freed, and each training step then takes the same memory
    # anew, page by page (a LeNet step: 1,700 page faults, a fifth of its time). A child keeps what it has, within its
    # limits, until it ends. mallopt(3).
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 24),
}
_PASSED_ON_PREFIXES: Final = ("CUDA_", "NVIDIA_")


def _environment() -> dict[str, str]:
    """What a child may know of the listener's environment: no secrets, no other switches of Python or PyTorch."""
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    kept |= _ALLOCATOR | _ONE_THREAD
    root = str(Path(cloister.__file__).parent.parent)
    if root not in site.getsitepackages():  # run from its sources
        kept["PYTHONPATH"] = root
    return kept
