"""What a process is at, written where its listener can read it at any time, also when the process is dead.

A few words in the memory of a link. The child writes a number before it begins anything, which costs next to nothing,
and no message could tell what a process did when it died. The listener believes none of it: a number that stands for
nothing is nothing, and no limit rests on these words alone (``cloister.node.cpu``).
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from cloister.tensor import optable
from cloister.wire.limits import SIZE
from cloister.wire.sessions import STEP, TAGS_OF_MESSAGES

WORDS: Final = 4
WORD_BYTES: Final = 8
_TURN, _DOES, _OBJECTS, _NBYTES = range(WORDS)

WAITING: Final = ""
READING: Final = "a message"


@cache
def _names() -> tuple[str, ...]:
    return (WAITING, READING, STEP, *TAGS_OF_MESSAGES, *optable.load())


@cache
def _numbers() -> dict[str, int]:
    return {name: number for number, name in enumerate(_names())}


class Seen(NamedTuple):
    """What stands on a slate."""

    turn: int
    """Another number for everything that is begun."""
    does: str
    """The operation, or what else it is at; empty while it waits to be told."""
    objects: int
    nbytes: int


class Slate:
    """A link's words. One end writes (``begin``, ``holds``), the other reads."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        self._numbers = _numbers()
        self._turn = 0
        self._last = WAITING

    def begin(self, what: str) -> None:
        """Something else begins now: an operation's name, or one of the words above."""
        self._turn += 1
        self._words[_DOES] = self._numbers.get(what, 1)
        self._words[_TURN] = self._turn

    def holds(self, *, objects: int, nbytes: int) -> None:
        """So many objects, of so many bytes, are held now."""
        self._words[_OBJECTS] = objects
        self._words[_NBYTES] = nbytes

    def read(self) -> Seen:
        """What stands there now."""
        turn, does, objects, nbytes = self._words[:WORDS].tolist()
        names = _names()
        return Seen(turn, names[does] if does < len(names) else "", min(objects, SIZE), min(nbytes, SIZE))

    def last(self) -> str:
        """What it was at last, when it was at something: for the log. Empty where nothing was seen."""
        self._last = self.read().does or self._last
        return self._last
