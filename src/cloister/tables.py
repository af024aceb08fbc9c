"""TOML files that people write: every fault is noted with its place and all are told at once, and nothing is ignored.

A file is read key by key through a ``Table``. What is wrong with a value is noted, and a stand-in returned, so that the
reading goes on; ``finish`` notes the keys that nobody asked for, since a mistyped limit is no limit; and ``faulty``
makes one error of all of it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self, TypeVar

from cloister.errors import ConfigurationError, meant

TEXT_BYTES: Final = 1 << 18
"""The longest text that is read, in bytes: it has room for a charter of a thousand members."""

DOTS: Final = 8
"""The most dots in one key. ``tomllib`` takes time and memory that grow with their square."""

DEPTH: Final = 8
"""How deep arrays and inline tables may stand in one another."""

FAULTS: Final = 100
"""The most faults of one file that are told."""

LIST_ITEMS: Final = 1024
"""The most items that a list may have."""

ANY: Final = "any"
"""Written where a list could stand, so that what is not checked is said."""

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s|min|h|d)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_HEX: Final = re.compile(r"[0-9a-fA-F]*")

_TOKEN: Final = re.compile(
    r"""
      (?P<long> \"""(?: [^"\\]++ | \\. | "(?!"") )*+""\""{0,2}+ | '''(?: [^']++ | '(?!'') )*+''''{0,2}+ )
    | (?P<text> (?!\"""|''') (?: "(?: [^"\\\n]++ | \\[^\n] )*+" | '[^'\n]*+' ) )
    | (?P<unended> ["'] )
    | (?P<bare> [A-Za-z0-9_+:-]++ | [ \t]++ )
    | (?P<dot> \. )
    | (?P<open> [\[{] )
    | (?P<close> [\]}] )
    | (?P<other> \#[^\n]*+ | [^]["'A-Za-z0-9_+: \t.{}\#-]++ )
    """,
    re.VERBOSE | re.DOTALL,
)
"""What a TOML text is made of, as far as its nesting goes. Whatever stands somewhere can be matched in one way only, so
that the time is the text's length."""

_LINE: Final = re.compile(r"at line ([0-9]{1,9})")
_BARE: Final = re.compile(r"[ \t]*+([A-Za-z0-9_-]{1,64}+)[ \t]*+=[ \t]*+[A-Za-z0-9#:/_.\\-]")

T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W", bound=str)


def load(text: str, *, source: str) -> dict[str, Any]:
    """The tables of a TOML text; ``source`` is its name for messages.

    Raises:
        ConfigurationError: it is not TOML; it is longer than 256 KiB, or nested deeper than any file of ours.
    """
    if len(text) > TEXT_BYTES or len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        raise ConfigurationError(f"{source} is longer than {TEXT_BYTES} bytes; nothing of that length is read here")
    _check_nesting(text, source)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as fault:  # ValueError: also a number of thousands of digits
        reason = "it is nested too deeply" if isinstance(fault, RecursionError) else str(fault)
        raise ConfigurationError(f"{source} is not TOML: {reason}{_mended(text, reason)}") from None


def _mended(text: str, reason: str) -> str:
    """What to do about a line that is not TOML: a text without quotes, pasted say, is the fault that people make."""
    at = _LINE.search(reason)
    lines = text.split("\n")
    if at is not None and int(at[1]) <= len(lines) and (bare := _BARE.match(lines[int(at[1]) - 1])):
        return f'; a text stands in quotes: {bare[1]} = "..."'
    return "; correct that line, or name another file"


def _check_nesting(text: str, source: str) -> None:
    """Refuses what ``tomllib`` would take for ever to read, or die of: only this stands before it."""
    dots = depth = 0
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "text" | "bare":
                continue
            case "dot":
                dots += 1
            case "open":
                dots, depth = 0, depth + 1
            case "close":
                dots, depth = 0, max(0, depth - 1)
            case "unended":
                line = text.count("\n", 0, token.start()) + 1
                raise ConfigurationError(f"{source} is not TOML: the text that begins on line {line} has no end")
            case _:
                dots = 0
        if dots > DOTS or depth > DEPTH:
            line = text.count("\n", 0, token.start()) + 1
            what = f"a key with more than {DOTS} dots" if dots > DOTS else f"nesting deeper than {DEPTH}"
            raise ConfigurationError(f"{source} is not TOML that is read here: line {line} has {what}; no key needs it")


def faulty(
    source: str, faults: Sequence[str], *, error: type[ConfigurationError] = ConfigurationError
) -> ConfigurationError:
    """One ``error`` for all the faults of one file; of many, the first hundred are told."""
    told = "\n".join(f"  {fault}" for fault in faults[:FAULTS])
    more = f"\n  and {len(faults) - FAULTS} more, once these are mended" if len(faults) > FAULTS else ""
    return error(f"{source} has {len(faults)} fault(s):\n{told}{more}")


class Table:
    """One table of a file. Each method reads one key; a key without a default must be there."""

    def __init__(self, data: Mapping[str, Any], *, faults: list[str], place: str = "") -> None:
        self._data = data
        self._place = place
        self._faults = faults
        self._read: set[str] = set()
        self._children: list[Table] = []

    def fault(self, key: str, text: str) -> None:
        """Notes what is wrong with a key."""
        self._faults.append(f"{self._place}{key}: {text}")

    def finish(self) -> None:
        """Notes every key that nobody read."""
        for key in self._data:
            if key not in self._read:
                known = ", ".join(sorted(self._read)) or "none"
                name = key if key.isprintable() else ascii(key)
                likely = meant(key, sorted(self._read - set(self._data)))
                self.fault(name, f"there is no such key{likely or f'; the keys here are: {known}'}")
        for child in self._children:
            child.finish()

    def holds(self, key: str) -> bool:
        """Whether the key is there: for one that may be left out."""
        self._read.add(key)
        return key in self._data

    def table(self, key: str) -> Self:
        """A table below this one; one without keys where it is missing."""
        return self._child(key, self.take(key, dict, "a table", {}) or {})

    def table_or_word(self, key: str, *, what: str, word: str) -> Self | None:
        """A table below this one that has to be there; None where ``word`` stands in its place, or it is faulty."""
        if self._data.get(key) == word:
            self._read.add(key)
            return None
        return self.needed_table(key, what=what)

    def needed_table(self, key: str, *, what: str) -> Self | None:
        """A table below this one that has to be there; None where it is faulty."""
        data = self.take(key, dict, what, None)
        return None if data is None else self._child(key, data)

    def _child(self, key: str, data: Mapping[str, Any]) -> Self:
        child = type(self)(data, faults=self._faults, place=f"{self._place}{key}.")
        self._children.append(child)
        return child

    def tables(self, key: str) -> list[Self]:
        """The tables of an array of tables; none where it is missing."""
        children: list[Self] = []
        for index, entry in enumerate(self.take(key, list, f"a list of tables, [[{key}]]", []) or []):
            if isinstance(entry, dict):
                children.append(type(self)(entry, faults=self._faults, place=f"{self._place}{key}[{index}]."))
            else:
                self.fault(f"{key}[{index}]", f"must be a table, [[{key}]]")
        self._children += children
        return children

    def text(self, key: str, *, default: str | None = None, most: int | None = None) -> str:
        """A text of printable characters, at most ``most`` of them; empty where it is faulty."""
        value = self.take(key, str, "a text", default)
        if value is not None and not (value.strip() and value.isprintable()):
            self.fault(key, "must be a text of printable characters")
        elif value is not None and most is not None and len(value) > most:
            self.fault(key, f"is longer than {most} characters")
        return value or ""

    def checked(self, key: str, *, what: str, check: Callable[[str], V]) -> V | None:
        """What ``check`` makes of a text; its ``ConfigurationError`` is the fault. None where it is faulty."""
        value = self.take(key, str, what, None)
        if value is None:
            return None
        try:
            return check(value)
        except ConfigurationError as fault:
            self.fault(key, str(fault))
            return None

    def choice(self, key: str, *, among: Sequence[str]) -> str | None:
        """One of some words; None where it is faulty."""
        what = f"one of {', '.join(among)}"
        value = self.take(key, str, what, None)
        if value is not None and value not in among:
            self.fault(key, f"must be {what}")
            return None
        return value

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """True or false; false where it is faulty."""
        return bool(self.take(key, bool, "true or false", default))

    def whole(self, key: str, *, least: int, most: int, default: int | None = None) -> int:
        """A whole number; ``default``, or ``least``, where it is faulty."""
        what = f"a whole number from {least} to {most}"
        value = self.take(key, int, what, default)
        if value is None:
            return least if default is None else default
        if not least <= value <= most:
            self.fault(key, f"must be {what}")
            return least
        return value

    def number(self, key: str, *, above: float | None = None, most: float | None = None) -> float | None:
        """A finite number, greater than ``above`` and at most ``most``; None where it is faulty."""
        bounds = [f"above {above:g}"] if above is not None else []
        bounds += [f"at most {most:g}"] if most is not None else []
        what = " ".join(["a finite number", " and ".join(bounds)]).strip()
        value = self.take(key, (int, float), what, None)
        if value is None:
            return None
        try:
            number = float(value) + 0.0  # -0.0 becomes 0.0
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or (above is not None and number <= above) or (most is not None and number > most):
            self.fault(key, f"must be {what}")
            return None
        return number

    def duration(self, key: str, *, most_s: float, default: str | None = None) -> float:
        """A time such as ``10 s`` or ``30 d``, in seconds; 0 where it is faulty."""
        text = self.take(key, str, 'a time such as "10 s"', default) or default
        if text is None:
            return 0.0
        match = _DURATION.fullmatch(text)
        if match is None:
            self.fault(key, f'must be a time such as "10 s"; the units are {", ".join(_DURATION_UNITS)}')
            return 0.0
        value = float(match[1]) * _DURATION_UNITS[match[2]]
        if value > most_s:
            self.fault(key, f"must be at most {most_s:g} s")
        return value

    def age(self, key: str, *, most: timedelta) -> timedelta:
        """A time such as ``30 d`` that is not zero."""
        age = timedelta(seconds=min(self.duration(key, most_s=most.total_seconds()), most.total_seconds()))
        if not age and isinstance(self._data.get(key), str) and _DURATION.fullmatch(self._data[key]):
            self.fault(key, "must be more than 0 s")
        return age

    def moment(self, key: str) -> datetime | None:
        """A date and time with its offset from UTC, in UTC; None where it is faulty."""
        what = "a date and time with its offset, such as 2026-01-31T12:00:00Z"
        value = self.take(key, datetime, what, None)
        if value is None:
            return None
        if value.tzinfo is None:
            self.fault(key, f"must be {what}")
            return None
        try:
            return value.astimezone(UTC)
        except OverflowError:
            self.fault(key, "lies outside the years 1 to 9999 in UTC")
            return None

    def texts(self, key: str, *, what: str, accepts: Callable[[str], bool], least: int = 0) -> tuple[str, ...]:
        """A list of texts that are each ``what``, at least ``least`` of them; none where it is faulty."""
        values = self.take(key, list, f"a list: each {what}", None)
        if values is None:
            return ()
        if not least <= len(values) <= LIST_ITEMS:
            self.fault(key, f"must hold {least} to {LIST_ITEMS} texts")
            return ()
        if not all(isinstance(value, str) and accepts(value) for value in values):
            self.fault(key, f"each must be {what}")
            return ()
        return tuple(values)

    def words(self, key: str, *, among: Iterable[W]) -> frozenset[W]:
        """A list of some of these words, at least one."""
        known = tuple(among)
        found = self.texts(key, what=f"one of {', '.join(known)}", accepts=known.__contains__, least=1)
        return frozenset(word for word in known if word in found)

    def hexes(self, key: str, *, size: int, least: int = 0) -> frozenset[bytes]:
        """A list of ``size`` bytes each, in hexadecimal."""
        texts = self.texts(key, what=f"{2 * size} hexadecimal digits", accepts=_hex_of(size), least=least)
        return frozenset(map(bytes.fromhex, texts))

    def hexes_or_any(self, key: str, *, size: int) -> frozenset[bytes] | Literal["any"]:
        """As ``hexes``, at least one of them; or the word ``any``."""
        if self.says_any(key):
            return ANY
        return self.hexes(key, size=size, least=1)

    def hexadecimal(self, key: str, *, size: int) -> bytes | None:
        """``size`` bytes in hexadecimal; None where it is faulty."""
        what = f"{2 * size} hexadecimal digits"
        value = self.take(key, str, what, None)
        if value is None:
            return None
        if not _hex_of(size)(value):
            self.fault(key, f"must be {what}")
            return None
        return bytes.fromhex(value)

    def says_any(self, key: str) -> bool:
        """Whether the word ``any`` stands there."""
        self._read.add(key)
        return bool(self._data.get(key) == ANY)

    def take(self, key: str, kind: type[T] | tuple[type[T], ...], what: str, default: T | None) -> T | None:
        """The key's value; ``default`` where the key is missing, or None and a fault where there is no default."""
        self._read.add(key)
        value = self._data.get(key)
        if value is None:
            if default is None:
                self.fault(key, f"is missing; it is {what}")
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.fault(key, f"must be {what}")
            return None
        return value


def bounds(kind: Any) -> dict[str, int]:
    """The bounds that a type is annotated with (``msgspec.Meta``): of numbers, or of lengths."""
    meta = kind.__metadata__[0]
    least, most = (meta.min_length, meta.max_length) if meta.ge is None else (meta.ge, meta.le)
    return {"least": least, "most": most}


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in hexadecimal."""
    return _hex_of(32)(text)


def _hex_of(size: int) -> Callable[[str], bool]:
    return lambda text: len(text) == 2 * size and _HEX.fullmatch(text) is not None
