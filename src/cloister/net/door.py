"""Who shakes hands, whose turn it is, and who has to go: decisions only. A listener brings connections and the clock.

What holds, whoever comes, and however fast:

1. There are at most so many connections inside as there are places, and nothing is remembered of more sources.
2. A newcomer is always let in. Where all places are taken, one of the source goes that holds the most, the newcomer
   counted: a source that holds no more than others lose by is never the loser. So of n sources, none that keeps to
   places / n loses one.
3. Of that source, one that has said nothing goes before one that has, and then the one that came first.
4. Who has something to be read gets turns, and its source's turn comes after that of sources which have had less of the
   listener's time, and come to nothing less often. So a newcomer waits for one turn of each other source at most,
   however long those took.
5. Whoever says nothing for ``silent_s``, or is not done after ``handshake_s``, goes in any case.

(2) is max-min fairness, (4) is start-time fair queueing (Goyal, Vin and Cheng 1997): a source begins at the virtual
time, which is what the last one to have a turn had had before, so that staying away saves up nothing, and leaving pays
nothing back.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)
_TURN_S: Final = 0.002
"""What a turn counts for at least: those whose turns are short have no more of them than others."""
_IN_VAIN_S: Final = 0.02
"""What one counts for beside, that ended in nothing."""
_GRAIN_S: Final = 0.1
"""How often clocks are looked at."""


@dataclass(slots=True)
class _Place:
    source: str
    since: float
    spoke: bool = False


class HandshakeLimiter(Generic[T]):
    """Places for connections that shake hands.

    Args:
        places: how many there are. silent_s, handshake_s: in seconds, from when a connection came; up to 0.1 s more.
    """

    def __init__(self, *, places: int, silent_s: float, handshake_s: float) -> None:
        self._size = places
        self._silent_s = min(silent_s, handshake_s)
        self._handshake_s = handshake_s
        self._places: dict[T, _Place] = {}
        self._held: dict[str, dict[T, None]] = {}  # by source, as they came; likewise:
        self._silent: dict[str, dict[T, None]] = {}
        self._ready: dict[str, dict[T, None]] = {}
        self._spent: dict[str, float] = {}  # seconds of turns; of those only that are ahead of the virtual time
        self._time = 0.0
        self._look_s = 0.0

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, one: T, source: str, now: float) -> T | None:
        """Lets ``one`` in, and returns who has gone for it."""
        self._places[one] = _Place(source, now)
        for kept in (self._held, self._silent):
            kept.setdefault(source, {})[one] = None
        return self.crowded_out(one) if len(self._places) > self._size else None

    def crowded_out(self, newcomer: T | None = None) -> T | None:
        """Sends away the one that can be spared most, if there is any but ``newcomer``."""
        most = max(map(len, self._held.values()), default=0)
        own = self._places[newcomer].source if newcomer is not None else ""
        if most > 1 and len(self._held.get(own, ())) == most:
            sources = [own]
        else:
            sources = [source for source, held in self._held.items() if len(held) == most]
        spared = (one for kept in (self._silent, self._held) for source in sources for one in kept.get(source, ()))
        loser = next((one for one in spared if one != newcomer), None)
        if loser is not None:
            self.leave(loser)
        return loser

    def hear(self, one: T) -> None:
        """It has said something."""
        place = self._places[one]
        if not place.spoke:
            place.spoke = True
            _remove(self._silent, place.source, one)

    def ready(self, one: T) -> None:
        """It is to have a turn."""
        self._ready.setdefault(self._places[one].source, {})[one] = None

    def turn(self) -> T | None:
        """Whose turn it is; afterwards ``spend`` is told what the turn took."""
        if not self._ready:
            return None
        source = min(self._ready, key=lambda each: self._spent.get(each, self._time))
        self._time = max(self._time, self._spent.get(source, 0.0))
        one = next(iter(self._ready[source]))
        _remove(self._ready, source, one)
        return one

    def spend(self, source: str, seconds: float, *, in_vain: bool) -> None:
        """A turn of that source's has taken so long, and came to nothing or not."""
        spent = max(seconds, _TURN_S) + (_IN_VAIN_S if in_vain else 0.0)
        self._spent[source] = self._spent.get(source, self._time) + spent
        if not self._ready:  # nobody has waited for it
            self._time = max(self._spent.values())
        self._spent = {each: spent for each, spent in self._spent.items() if spent > self._time}
        if len(self._spent) > self._size:
            del self._spent[min(self._spent, key=self._spent.__getitem__)]

    def leave(self, one: T) -> None:
        """It is done, or gone."""
        source = self._places.pop(one).source
        for kept in (self._held, self._silent, self._ready):
            _remove(kept, source, one)

    def late(self, now: float) -> dict[T, bool]:
        """Sends away all whose time is over; for each, whether it ever said something."""
        if now < self._look_s:
            return {}
        self._look_s = now + _GRAIN_S
        late = {}
        for one, place in self._places.items():
            if place.since + (self._handshake_s if place.spoke else self._silent_s) <= now:
                late[one] = place.spoke
        for one in late:
            self.leave(one)
        return late

    def until(self) -> float | None:
        """When to act next: at once (0) if somebody is to have a turn, otherwise when somebody's time may be over."""
        if self._ready:
            return 0.0
        return self._look_s if self._places else None


def _remove(kept: dict[str, dict[T, None]], source: str, one: T) -> None:
    ones = kept.get(source, {})
    ones.pop(one, None)
    if not ones:
        kept.pop(source, None)
