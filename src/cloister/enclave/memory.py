"""Memory as an aggregator wants it: what a round took is given back when it is over."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_MMAP_THRESHOLD: Final = -3
"""M_MMAP_THRESHOLD of glibc's <malloc.h>."""
_LARGE_BYTES: Final = 1 << 20


def give_back_large_vectors() -> None:
    """Has the C library map each large vector on its own, for as long as the process lasts.

    glibc would learn from the first that is freed to keep such memory, in every thread's heap: two models' worth lay
    idle in them. Another C library is left as it is.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
