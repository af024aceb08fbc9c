"""The pause after a void round: the next one begins at once with other owners, and after a pause with the same."""

from __future__ import annotations

from typing import Final

from cloister.ledger.cohorts import Members

PAUSE_S: Final = (1.0, 60.0)
"""The first pause, doubled up to the last."""


class Pauses:
    """The pauses of one run. Times are by the clock of the events; owners are named by their fingerprints."""

    def __init__(self) -> None:
        self._asked: Members = frozenset()
        self._failed: Members = frozenset()
        self._until: float | None = 0.0
        self._voids = 0

    def begin(self, asked: Members) -> None:
        """Notes that a round is proposed to these owners."""
        self._asked, self._until = asked, None

    def fail(self, present: Members, *, now: float, hopeless: bool) -> None:
        """Notes that the round is void. ``hopeless``: the next one would be too without other owners."""
        first, last = PAUSE_S
        self._failed = self._asked & present  # owners that came since were not asked yet
        self._until = None if hopeless else now + min(first * 2 ** min(self._voids, 10), last)
        self._voids += 1

    def over(self, present: Members, *, now: float) -> bool:
        """Whether a round may begin with these."""
        return present != self._failed or (self._until is not None and now >= self._until)

    def until(self, now: float) -> float | None:
        """The moment at which the pause ends, if there is one that time ends."""
        return self._until if self._until is not None and self._until > now else None
