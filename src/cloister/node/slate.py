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
_AT, _BUSY, _OBJECTS, _NBYTES = range(WORDS)
_NAMES: Final = 1 << 16
"""What is done, and in which turn, stand in one word: ``turn * _NAMES + number``."""

READING: Final = "a message"
"""What a process is at before it knows what it is to do."""
_NOTHING: Final = ""


@cache
def _names() -> tuple[str, ...]:
    return (_NOTHING, READING, STEP, *TAGS_OF_MESSAGES, *optable.load())


@cache
def _numbers() -> dict[str, int]:
    return {name: number for number, name in enumerate(_names())}


class Seen(NamedTuple):
    """What stands on a slate."""

    turn: int
    """Another number for everything that is begun."""
    does: str
    """The operation that it is at, or was at last, or what else that is; empty where there was nothing yet."""
    busy: bool
    """False while it waits to be told what to do."""
    objects: int
    nbytes: int


class Slate:
    """A link's words. One end writes (``begin``, ``rest``, ``holds``), the other reads."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        self._numbers = _numbers()
        self._turn = 0
        self._resting = True

    def begin(self, what: str) -> None:
        """Something else begins now: an operation, a command or question by its tag, a step, a message."""
        self._turn += _NAMES
        self._words[_AT] = self._turn + self._numbers.get(what, 0)
        if self._resting:
            self._words[_BUSY] = 1
            self._resting = False

    def rest(self) -> None:
        """Nothing is done now until something comes."""
        self._words[_BUSY] = 0
        self._resting = True

    def holds(self, *, objects: int, nbytes: int) -> None:
        """So many objects, of so many bytes, are held now."""
        self._words[_OBJECTS] = objects
        self._words[_NBYTES] = nbytes

    def read(self) -> Seen:
        """What stands there now."""
        at, busy, objects, nbytes = self._words.tolist()
        turn, does = divmod(at, _NAMES)
        names = _names()
        name = names[does] if does < len(names) else _NOTHING
        return Seen(turn, name, busy != 0, min(objects, SIZE), min(nbytes, SIZE))
