"""Who has crashed processes here, and for how long they are put off."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, NamedTuple

FREE: Final = 4
"""So many crashes have no consequences: software has faults."""
FIRST_S: Final = 10.0
MOST_S: Final = 3600.0


class _Record(NamedTuple):
    crashes: int
    until: float


class Crashes:
    """Counts the crashes of each peer. From the fifth on it is put off, for 10 s at first and twice as long each time,
    an hour at most. Who has crashed nothing for an hour after that begins anew.

    ``now`` is a moment in seconds of whatever clock, the same for all calls.
    """

    def __init__(self) -> None:
        self._records: dict[Hashable, _Record] = {}
        self.total = 0
        """All crashes, of all peers."""

    def note(self, peer: Hashable, *, now: float) -> int:
        """A crash of this peer's; how many it has had in a row."""
        self.total += 1
        count = self.count(peer, now=now) + 1
        pause = 0.0 if count <= FREE else min(FIRST_S * 2.0 ** min(count - FREE - 1, 64), MOST_S)
        self._records[peer] = _Record(count, now + pause)
        return count

    def count(self, peer: Hashable, *, now: float) -> int:
        """How many crashes in a row this peer has had."""
        record = self._records.get(peer)
        if record is not None and now - record.until > MOST_S:
            del self._records[peer]
            record = None
        return 0 if record is None else record.crashes

    def left_s(self, peer: Hashable, *, now: float) -> float:
        """For how long this peer is still put off, in seconds."""
        record = self._records.get(peer)
        return 0.0 if record is None else max(0.0, record.until - now)
