"""Services as processes of their own, started as their owners start them and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cloister.errors import UnreachableError

PROGRAM: Final = ("-m", "cloister")
_STOP_S: Final = 20.0


class Service:
    """A ``cloister ... serve`` process; its log goes to a file.

    Args:
        arguments: of ``cloister``, such as ``("node", "serve", "node.toml")``.
        log: a new file for what it writes to its error stream.
        environment: variables beyond this process's own.
        program: what Python runs, where that is not ``cloister`` itself: a measurement's own way to start it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.log_file = log
        with log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**os.environ, **(environment or {})},
            )

    def ready(self) -> tuple[str, str]:
        """The address and the key's fingerprint that it says it serves at, once it does.

        Raises:
            UnreachableError: it did not start; the message holds the end of its log.
        """
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        words = line.split()
        if words[:1] != ["ready"]:
            raise UnreachableError(f"{self.log_file.stem} did not start; its log ends: {self.log()[-2000:]}")
        return words[-2], words[-1]

    def log(self) -> str:
        """What it has written to its log."""
        return self.log_file.read_text(encoding="utf-8")

    def ask_to_end(self) -> None:
        """As its owner would. ``end`` waits for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Ends it; if it does not go, the hard way."""
        self.ask_to_end()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def end_all(services: Sequence[Service]) -> None:
    """Ends them side by side."""
    for service in services:
        service.ask_to_end()
    for service in services:
        service.end()
