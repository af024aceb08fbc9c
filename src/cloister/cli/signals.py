"""How a service on the command line ends: at once when asked twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType


def end_on_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and Ctrl-C call ``stop``; a second one ends the process at once."""
    asked: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if asked:
            os._exit(128 + number)  # its executors are killed by the system as it ends
        asked.append(number)
        stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
