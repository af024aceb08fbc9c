"""A process's log as lines that nobody else can write: a message that quotes a peer stays one line."""

from __future__ import annotations

import logging
import sys
from typing import Final

from cloister.wire.text import visible

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogLines(logging.Formatter):
    """Spells out what cannot be printed or seen. The lines of a traceback are indented, and none looks like another
    message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # as logging calls it
        """The message with its time and place."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """The traceback below it."""
        return "\n".join(f"    {visible(line)}" for line in super().formatException(ei).split("\n"))  # type: ignore[arg-type]


def start_log() -> None:
    """Has what happens written to the error stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLines(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
