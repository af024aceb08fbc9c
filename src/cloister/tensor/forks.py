"""What becomes of a session in a process that inherited it by ``fork``: nothing there can use it.

Two processes that write to one connection would break it for both, and what one of them frees would be gone for the
other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from cloister.errors import InheritedWorkerError


class Inherited:
    """Stands where the lock of a session was, and cannot be taken. Nor could the lock itself: the thread that held it
    at the time of the fork does not exist here."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> NoReturn:
        refuse(self._name)

    def __exit__(self, *exception: object) -> None:
        """Never entered."""


def refuse(name: str) -> NoReturn:
    """Says that the worker of this name cannot be used here.

    Raises:
        InheritedWorkerError: always.
    """
    raise InheritedWorkerError(
        f"worker {name} belongs to the process that opened its session, and this one is a fork of that; use pointers "
        "in the process that made them (a DataLoader over pointers with num_workers=0), or connect anew in this one"
    )


def in_every_child(act: Callable[[], None]) -> None:
    """Has each process that this one forks begin with ``act``; see ``os.register_at_fork``."""
    os.register_at_fork(after_in_child=act)
