"""Waiting for one of several things at once, without polling the clock: descriptors, and bells that threads ring."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Final

READABLE: Final = select.POLLIN
WRITABLE: Final = select.POLLOUT
HUNG_UP: Final = select.POLLRDHUP
"""The other end will send no more. Unlike readability it is not set off by data that still waits to be read."""


class Wakeup:
    """Rung by one thread, heard by all that wait for its descriptor, until somebody hushes it.

    The descriptor closes with the last reference, so that nobody waits on a number that has been given to another file.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def set(self) -> None:
        """Safe in a signal handler."""
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """What was rung so far is heard no more."""
        with suppress(BlockingIOError):  # it was silent
            os.eventfd_read(self._descriptor)

    @property
    def rung(self) -> bool:
        return bool(wait({self._descriptor: READABLE}, until=0.0))


class Watched:
    """Descriptors that are waited for again and again. For each: ``READABLE``, ``WRITABLE``, ``HUNG_UP`` or several."""

    def __init__(self, watched: Mapping[int, int]) -> None:
        self._poll = select.poll()
        for descriptor, events in watched.items():
            self._poll.register(descriptor, events)

    def wait(self, *, until: float | None) -> set[int]:
        """Those on which something happened: what was asked for, an error or an end.

        ``until`` is the moment (``time.monotonic``) at which the wait ends with an empty answer; None waits for ever, 0
        not at all.
        """
        if until is None:
            return {descriptor for descriptor, _ in self._poll.poll()}
        # Rounded up: a wait that ends a fraction of a millisecond early would spin until the moment has come.
        patience_ms = max(0.0, until - monotonic()) * 1000 + 1 if until else 0
        return {descriptor for descriptor, _ in self._poll.poll(patience_ms)}


def wait(watched: Mapping[int, int], *, until: float | None) -> set[int]:
    """``Watched.wait``, once."""
    return Watched(watched).wait(until=until)
