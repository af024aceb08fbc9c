"""Places shared among those who come: nobody takes them all, and whoever has none gets one."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

STRANGERS: Final = 16
"""Connections of those who have an instance prove itself and are not known to it: anyone can, again and again."""


class Shares:
    """So many ``places``. May be used by several threads.

    Nobody may hold more than there are left free, nor more than ``each``. So n who take all that they can get leave
    places / (n + 1) to the others, and who holds none is refused only if there are as many holders as places.

    Source: Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998.
    """

    def __init__(self, places: int, *, each: int | None = None) -> None:
        self._places = places
        self._each = places if each is None else each
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, who: str) -> bool:
        """Whether there is a place for ``who``, which holds it until it is given back."""
        with self._lock:
            if self._held[who] >= min(self._each, self._places - self._held.total()):
                self._held += Counter()  # forgets those who hold none
                return False
            self._held[who] += 1
            return True

    def give(self, who: str) -> None:
        """A place of ``who``'s is free again."""
        with self._lock:
            self._held[who] -= 1
            self._held += Counter()
