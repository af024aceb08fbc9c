"""The C library's allocator, told to give large pieces back to the system as soon as they are freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 1 << 20


def give_back_large() -> None:
    """From 1 MiB on every piece of memory is mapped on its own, for the whole process.

    glibc raises that limit to the largest piece that was ever freed, 32 MiB at most, and keeps what is smaller: a few
    models in each of its arenas (mallopt(3), M_MMAP_THRESHOLD). Another C library has no such limit, and is left alone.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
