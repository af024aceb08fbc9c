"""One executor process, as the listener uses it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Final

import msgspec

from cloister.errors import NoAnswerError, WireError
from cloister.net.polling import READABLE, wait
from cloister.node.data_files import DataSetEntry
from cloister.node.process import Process
from cloister.node.slate import Slate
from cloister.wire.frames import Kind

_log: Final = logging.getLogger(__name__)


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An executor's settings, which it reads at its start as the first line of its standard input."""

    listener: int
    memory_bytes: int
    objects: int
    device: str
    threads: int


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session's data sets, which the executor reads when its session opens, as the rest of its standard input. Keys
    that came after its start are in it, and no key waits in a process that serves nobody."""

    data_sets: tuple[DataSetEntry, ...]


class Child:
    """An executor process with its two links: ``session`` for what the caller asks, ``moves`` for pushing and
    taking."""

    def __init__(self, process: Process) -> None:
        self.session, self.moves = process.links
        self._process = process
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def slate(self) -> Slate:
        """The slate on which it writes what it is doing."""
        return self.session.slate

    @classmethod
    def start(cls, assignment: Assignment) -> Child:
        """Starts a process as ``Process.start`` does. It warms up by itself (``wait_ready``)."""
        process = Process.start("cloister.node.session.executor_process", links=2)
        process.tell(msgspec.json.encode(assignment) + b"\n")
        return cls(process)

    def open(self, data_sets: Sequence[DataSetEntry]) -> None:
        """Opens its session, once, when it is ready: from then on it serves what comes over ``session``."""
        self._process.tell(msgspec.json.encode(Opening(tuple(data_sets))), last=True)

    @property
    def prompt(self) -> bool:
        """Whether ``wait_ready`` returns at once."""
        return self._ready or bool(wait({self.session.fileno(): READABLE}, until=0.0))

    def wait_ready(self, *, within_s: float) -> bool:
        """Waits until the process has warmed up; False if it has died, is not one of ours, or takes too long."""
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
        """As ``Process.wait_end``."""
        return self._process.wait_end(until=until)

    def reason(self) -> str:
        """The reason why the process ended, for the caller to read."""
        return self._process.reason()

    def kill(self) -> None:
        """As ``Process.kill``."""
        self._process.kill()

    def end(self) -> None:
        """Kills the process, if it lives, and waits until it is gone. May be called twice."""
        self._process.end()
