"""The fenced allocator under torch (``fence.c``): compiled and loaded by starting this program once more."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VARIABLE = "CLOISTER_FUZZ_FENCE"


class Fence:
    """Switches the allocator; without one, does nothing."""

    def __init__(self, library: ctypes.CDLL | None) -> None:
        self._library = library

    def __bool__(self) -> bool:
        return self._library is not None

    def raise_(self, *, fill: int, at_start: bool) -> None:
        """From now on tensors have memory of their own, filled with a byte; its start, or its end, is at a page's."""
        if self._library is not None:
            self._library.fence(1, fill, int(at_start))

    def fill_stack(self) -> None:
        """Fills what lies beyond the end of this thread's stack."""
        if self._library is not None:
            self._library.fence_stack()

    def broken(self) -> bool:
        """Whether something was written just beside a tensor since the last time."""
        return self._library is not None and bool(self._library.fence_broken())


def fenced() -> Fence:
    """The fence under this process, which is replaced by one that has it; none where there is no C compiler."""
    known = os.environ.pop(VARIABLE, None)
    if known is not None:
        os.environ.pop("LD_PRELOAD", None)
        if not known:
            return Fence(None)
        library = ctypes.CDLL(known)
        library.fence_broken.restype = ctypes.c_size_t
        shutil.rmtree(Path(known).parent)  # it is mapped
        return Fence(library)
    folder = Path(tempfile.mkdtemp(prefix="fence-"))
    target = str(folder / "fence.so")
    try:
        command = [shutil.which("cc") or "cc", "-O1", "-shared", "-fPIC", "-o", target]
        subprocess.run([*command, str(Path(__file__).with_name("fence.c"))], check=True, capture_output=True)
        environment = {VARIABLE: target, "LD_PRELOAD": target}
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(folder)
        print("no C compiler: without fences, so that what nobody wrote is seldom seen", flush=True)
        environment = {VARIABLE: ""}
    sys.stdout.flush()
    again = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, again, os.environ | environment)  # noqa: S606 - itself, over the other allocator
