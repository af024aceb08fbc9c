"""A run's interaction with a person: the new model's evaluation, a line for each round, and Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from rich.console import Console
from torch import nn

from cloister.wire.text import visible

_log: Final = logging.getLogger(__name__)
_SIGNALS: Final = 1024


def evaluated(model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
    """Evaluates the model in ``eval`` mode, and then restores the modes that its modules had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        return {name: float(value) for name, value in evaluate(model).items()}
    finally:
        for module, mode in modes:
            module.training = mode


class Screen:
    """Shows lines to a person: on the terminal or in the notebook if there is one, else in the log. ``always``: on the
    error stream where there is neither, and no log that takes them (INFO)."""

    def __init__(self, *, always: bool = False) -> None:
        self._console = Console(stderr=True)
        self._always = always

    def __call__(self, line: object) -> None:
        """Shows a line, whatever it quotes."""
        text = visible(str(line))
        unseen = self._always and not _log.isEnabledFor(logging.INFO)
        if self._console.is_terminal or self._console.is_jupyter or unseen:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            _log.info("%s", text)


class Interrupts:
    """Within its block, the first Ctrl-C is only noted, and the second one raises KeyboardInterrupt.

    A handler in Python runs when the main thread next gets to it, which may be too late for a wait that begins just
    then. So a wait watches a pipe, into which the interpreter writes each signal at once (``signal.set_wakeup_fd``).
    Signals go to the main thread: in another one this does nothing.
    """

    def __init__(self, *, said: Callable[[str], None]) -> None:
        self._said = said
        self._pressed = 0
        self._noted = False
        self._before: Any = None
        self._woken = -1

    def __enter__(self) -> Interrupts:
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if threading.current_thread() is threading.main_thread():
            self._woken = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            signal.set_wakeup_fd(self._woken)
        os.close(self._reading)
        os.close(self._writing)

    def fileno(self) -> int:
        """Readable when there may be something new in ``asked``."""
        return self._reading

    @property
    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        with suppress(BlockingIOError):
            self._noted |= signal.SIGINT in os.read(self._reading, _SIGNALS)
        return self._noted

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self._pressed += 1
        if self._pressed > 1:
            raise KeyboardInterrupt
        self._said("stopping the job; Ctrl-C again leaves it at once, and to itself")
