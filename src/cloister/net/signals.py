"""How a service ends: in order when asked once, at once when asked twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable


def end_on_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and Ctrl-C call ``stop``, in a thread of its own; a second one ends the process at once.

    A handler in Python runs when the main thread next gets to it: a signal that comes just before that thread begins
    to wait leaves it waiting. What wakes up here is a read of the bytes that the interpreter writes at once, from
    whichever thread was interrupted (``signal.set_wakeup_fd``).
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)  # caught, so that the byte is written

    def watch() -> None:
        os.read(reading, 1)
        stop()
        (number,) = os.read(reading, 1)
        os._exit(128 + number)  # its executors are killed by the system as it ends

    threading.Thread(target=watch, name="cloister signals", daemon=True).start()
