"""Making up for a round that some owners have signed and that never came out.

Owners refuse a cohort that differs from one that they have signed, on the same model, by fewer than ``floor`` members:
they cannot know whether that one was released. So the next round on the model is of the same owners again, and whoever
has come since waits for the one after it.
"""

from __future__ import annotations

from collections.abc import Set

from cloister.aggregator.releasing import Signing


class MakingUp:
    """What one instance still has to make up for.

    ``floor``: the charter's.
    """

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._model = b""
        self._members: frozenset[str] = frozenset()

    def failed(self, signing: Signing, *, model: bytes) -> None:
        """A round on this model is void, although its cohort was shown to owners."""
        if signing.refused:
            self._members = frozenset()  # it was not what they had signed before, if they had
        elif signing.begun:
            self._model, self._members = model, signing.members

    def left_out(self, present: Set[str], *, model: bytes) -> Set[str]:
        """Who of those present, by fingerprint, has to wait for the round after the next on this model."""
        others = present - self._members
        if model != self._model or not self._members <= present or len(others) >= self._floor:
            return frozenset()
        return others if self._members else frozenset()
