"""How a run shows itself while it goes on: the new model's evaluation, a line for each round, and Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

from rich.console import Console
from torch import nn

from cloister.net.waiting import Bell

_log: Final = logging.getLogger(__name__)


def evaluated(model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
    """What ``evaluate`` finds of the model in ``eval`` mode; its modes are then what they were."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        return {name: float(value) for name, value in evaluate(model).items()}
    finally:
        for module, mode in modes:
            module.training = mode


class Screen:
    """Lines for a person: on the terminal or in the notebook, where there is one, else in the log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def __call__(self, line: object) -> None:
        """Shows a line."""
        if self._console.is_terminal or self._console.is_jupyter:
            self._console.print(str(line), highlight=False, markup=False, soft_wrap=True)
        else:
            _log.info("%s", line)


class Interrupts:
    """While it is entered, the first Ctrl-C rings a bell, and only the second one raises KeyboardInterrupt.

    Signals come to the main thread; in another one nothing changes.
    """

    def __init__(self, *, said: Callable[[str], None]) -> None:
        self.bell = Bell()
        self._said = said
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @property
    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.bell.rung

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.bell.ring()
        self._said("stopping after the round that is under way; Ctrl-C again leaves it at once")
