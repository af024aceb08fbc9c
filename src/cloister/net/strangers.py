"""Those who may ask an instance to prove itself and are not known to it: anyone can be one, as often as they like."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from cloister.net.connection import Connection
from cloister.net.reception import refuse

STRANGERS: Final = 8


class Strangers:
    """A few places for them, so that they take none from those who are known.

    As many again are told to try later. That takes a moment each, so where still more come they are closed on: together
    they hold ``most`` connections.
    """

    most: Final = 2 * STRANGERS

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(STRANGERS)
        self._refusals = threading.BoundedSemaphore(STRANGERS)

    def serve(self, connection: Connection, handle: Callable[[Connection], None]) -> None:
        """Has ``handle`` serve the connection, if there is a place; otherwise ends it."""
        if self._places.acquire(blocking=False):
            try:
                handle(connection)
            finally:
                self._places.release()
        elif self._refusals.acquire(blocking=False):
            try:
                refuse(connection, "busy", text="others are verifying it at the moment; try again later")
            finally:
                self._refusals.release()
        else:
            connection.close()
