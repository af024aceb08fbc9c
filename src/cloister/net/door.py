"""Who shakes hands, whose turn it is, and who has to go: decisions only. A listener brings connections and the clock.

What holds, whoever comes, and however fast:

1. There are at most so many connections inside as there are places, and nothing is remembered of more sources.
2. A newcomer is always let in. Where all places are taken, one of the source goes that holds the most, the newcomer
   counted: a source that holds no more than others lose by is never the loser. So of n sources, none that keeps to
   places / n loses one.
3. Of that source, one that has said nothing goes before one that has, and then the one that came first.
4. Who has something to be read gets turns, and its source's turn comes after that of sources which have had less of the
   listener's time. So a newcomer waits for one turn of each other source at most, however long those took.
5. Whoever says nothing for ``silent_s``, or is not done after ``handshake_s``, goes in any case.

(2) is max-min fairness, (4) is start-time fair queueing (Goyal, Vin and Cheng 1997): a source begins at the virtual
time, which is what the last one to have a turn had had before, so that staying away saves up nothing, and leaving pays
nothing back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)
_LEAST_S: Final = 1e-6
"""What a turn costs at least, so that a clock that stands still lets nobody go first for ever."""


@dataclass(slots=True)
class _Place:
    source: str
    since: float
    spoke: bool = False


class Door(Generic[T]):
    """Places for connections that shake hands.

    Args:
        places: how many there are. silent_s, handshake_s: in seconds, from when a connection came.
    """

    def __init__(self, *, places: int, silent_s: float, handshake_s: float) -> None:
        self._size = places
        self._silent_s = silent_s
        self._handshake_s = handshake_s
        self._places: dict[T, _Place] = {}  # as they came
        self._held: Counter[str] = Counter()
        self._ready: dict[str, dict[T, None]] = {}  # by source; each source's as they became so
        self._spent: dict[str, float] = {}  # seconds of turns; of those only that are ahead of the virtual time
        self._time = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, one: T, source: str, now: float) -> T | None:
        """Lets ``one`` in, and returns who has gone for it."""
        self._places[one] = _Place(source, now)
        self._held[source] += 1
        return self.crowded_out(one) if len(self._places) > self._size else None

    def crowded_out(self, newcomer: T | None = None) -> T | None:
        """Sends away the one that can be spared most, if there is any but ``newcomer``."""
        most = max(self._held.values(), default=0)
        own = self._places[newcomer].source if newcomer is not None else ""
        spared = [one for one, place in self._places.items() if self._held[place.source] == most and one != newcomer]
        if not spared:
            return None
        loser = min(spared, key=lambda one: (self._places[one].source != own, self._places[one].spoke))
        self.leave(loser)
        return loser

    def hear(self, one: T) -> None:
        """It has sent something, so it is to have a turn."""
        place = self._places[one]
        place.spoke = True
        self._ready.setdefault(place.source, {})[one] = None

    def turn(self) -> T | None:
        """Whose turn it is; afterwards ``spend`` is told what the turn took."""
        if not self._ready:
            return None
        source = min(self._ready, key=lambda each: self._spent.get(each, self._time))
        self._time = max(self._time, self._spent.get(source, 0.0))
        one = next(iter(self._ready[source]))
        self._unready(one, source)
        return one

    def spend(self, source: str, seconds: float) -> None:
        """A turn of that source's has taken so long."""
        self._spent[source] = self._spent.pop(source, self._time) + max(seconds, _LEAST_S)
        if not self._ready:  # nobody has waited for it
            self._time = max(self._spent.values())
        self._spent = {each: spent for each, spent in self._spent.items() if spent > self._time}
        if len(self._spent) > 4 * self._size:
            del self._spent[min(self._spent, key=self._spent.__getitem__)]

    def leave(self, one: T) -> None:
        """It is done, or gone."""
        source = self._places.pop(one).source
        self._held[source] -= 1
        if not self._held[source]:
            del self._held[source]
        self._unready(one, source)

    def late(self, now: float) -> dict[T, bool]:
        """Sends away all whose time is over; for each, whether it ever said something."""
        late = {one: place.spoke for one, place in self._places.items() if self._until(place) <= now}
        for one in late:
            self.leave(one)
        return late

    def until(self) -> float | None:
        """When to act next: at once (0) if somebody is to have a turn, otherwise when somebody's time is over."""
        return 0.0 if self._ready else min(map(self._until, self._places.values()), default=None)

    def _until(self, place: _Place) -> float:
        return place.since + (self._handshake_s if place.spoke else min(self._silent_s, self._handshake_s))

    def _unready(self, one: T, source: str) -> None:
        ready = self._ready.get(source, {})
        ready.pop(one, None)
        if not ready:
            self._ready.pop(source, None)
