"""What the processes that a node starts have in common: how torch computes in them, and how they end."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import torch


def use_threads(threads: int) -> None:
    """Has torch compute with so many threads."""
    torch.set_num_threads(threads)
    with suppress(RuntimeError):  # settable once a process
        torch.set_num_interop_threads(1)


def run(work: Callable[[Sequence[str]], None], *, log: logging.Logger) -> NoReturn:
    """Runs this process's work with its arguments, and ends it: with 0, also after ``EOFError``, when the listener is
    gone; with 1 after any other error, which is noted."""
    # When, and which process, the listener adds (cloister.node.process).
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    status = 0
    try:
        work(sys.argv[1:])
    except EOFError:
        pass
    except Exception as fault:  # noqa: BLE001 - of whatever kind, it ends this process and is noted
        log.critical("%s", where(fault))
        status = 1
    sys.stderr.flush()
    os._exit(status)  # the memory goes back at once, without torch's own tidying up


def where(fault: BaseException) -> str:
    """For the log: where an exception happened, and not what it says, since its text may hold values."""
    return f"{type(fault).__name__} at\n{''.join(traceback.format_tb(fault.__traceback__))}"
