"""Places shared among those who come: each has some that no other can take."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Final

STRANGERS: Final = 16
"""Connections of those who have an instance prove itself and are not known to it: anyone can, again and again."""


class Shares:
    """May be used by several threads.

    Args:
        own: how many places there are for each who comes, and for nobody else.
        common: how many more there are, for whoever comes first.
        most: how many may be taken in all, where those who come can have as many names as they like; then n of them may
            take so many that the next finds none, for n of at least ``most / own``.
    """

    def __init__(self, *, own: int, common: int = 0, most: float = math.inf) -> None:
        self._own = own
        self._common = common
        self._most = most
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, who: str) -> bool:
        """Whether there is a place for ``who``, which holds it until it is given back."""
        with self._lock:
            common = sum(held - self._own for held in self._held.values() if held > self._own)
            there_is = self._held.get(who, 0) < self._own or common < self._common
            if there_is and self._held.total() < self._most:
                self._held[who] += 1
                return True
            return False

    def give(self, who: str) -> None:
        """A place of ``who``'s is free again."""
        with self._lock:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]
