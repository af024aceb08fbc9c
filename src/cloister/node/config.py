"""node.toml: what one node is, whom it knows, what it holds and how much it gives. docs/operations.md is its reference.

Every fault in the file is reported, all at once and each with its place, so that an owner corrects it in one go.
Nothing that is written is ignored: a key that means nothing here is a fault too, since a mistyped limit is no limit.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from cloister.errors import ConfigurationError
from cloister.net.address import Address, parse_address
from cloister.net.dialling import check_fingerprint
from cloister.wire.limits import NAME_CHARS, SIZE, TAGS

MIB: Final = 1 << 20


@dataclass(frozen=True)
class SessionLimits:
    """What each session may have. Sizes in bytes, times in seconds."""

    memory_bytes: int
    objects: int
    max_sessions: int
    spare_executors: int
    grace_s: float
    move_wait_s: float
    device: str
    threads: int


@dataclass(frozen=True)
class Researcher:
    """A key that may open sessions."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Neighbour:
    """Another node: it may push values here, and, where its address is known, values are pushed to it."""

    name: str
    fingerprint: str
    address: Address | None


@dataclass(frozen=True)
class DataSet:
    """One registered tensor: where it lies and what a search finds it by."""

    tags: tuple[str, ...]
    path: Path
    tensor: str
    unsafe_interactive: bool


@dataclass(frozen=True)
class NodeConfiguration:
    """A node.toml without faults. Paths are absolute."""

    name: str
    listen: Address
    identity: Path
    session: SessionLimits
    researchers: tuple[Researcher, ...]
    workers: tuple[Neighbour, ...]
    data_sets: tuple[DataSet, ...]


def read(path: str | os.PathLike[str]) -> NodeConfiguration:
    """The configuration in a file. The files that it names are not looked at.

    Raises:
        ConfigurationError: the file cannot be read or has faults; the message lists all of them.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        hint = f"write one with: cloister node new {file}"
        reason = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{file}: {reason}; {hint}") from None
    return parse(text, folder=file.absolute().parent, source=str(file))


def parse(text: str, *, folder: Path, source: str = "node.toml") -> NodeConfiguration:
    """The configuration in a text; ``folder`` is where relative paths start, ``source`` the name for messages.

    Raises:
        ConfigurationError: the text has faults; the message lists all of them.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigurationError(f"{source} is not TOML: {fault}") from None
    faults: list[str] = []
    table = _Table(data, "", faults)
    configuration = NodeConfiguration(
        name=table.name("name"),
        listen=table.listening("listen"),
        identity=folder / table.text("identity"),
        session=_session(table.table("session")),
        researchers=tuple(
            Researcher(name=entry.name("name"), fingerprint=entry.fingerprint())
            for entry in table.tables("researchers")
        ),
        workers=tuple(
            Neighbour(name=entry.name("name"), fingerprint=entry.fingerprint(), address=entry.dialled("address"))
            for entry in table.tables("workers")
        ),
        data_sets=tuple(_data_set(entry, folder) for entry in table.tables("data_sets")),
    )
    table.finish()
    _check_peers(configuration, faults)
    if faults:
        raise faulty(source, faults)
    return configuration


def faulty(source: str, faults: list[str]) -> ConfigurationError:
    """One error for all the faults of one file."""
    return ConfigurationError(f"{source} has {len(faults)} fault(s):\n" + "\n".join(f"  {fault}" for fault in faults))


def _session(table: _Table) -> SessionLimits:
    max_sessions = table.whole("max_sessions", default=8, least=1, most=256)
    return SessionLimits(
        memory_bytes=table.size("memory", default="2 GiB", least=MIB),
        objects=table.whole("objects", default=100_000, least=1, most=100_000_000),
        max_sessions=max_sessions,
        spare_executors=table.whole("spare_executors", default=1, least=0, most=64),
        grace_s=table.duration("grace", default="10 s", most_s=3600),
        move_wait_s=table.duration("move_wait", default="10 min", most_s=24 * 3600),
        device=table.device("device"),
        # Sessions compute at the same time: more threads than cores would only make them wait for each other.
        threads=table.whole("threads", default=max(1, (os.cpu_count() or 1) // max_sessions), least=1, most=1024),
    )


def _data_set(entry: _Table, folder: Path) -> DataSet:
    path = folder / entry.text("file")
    if path.suffix not in ("", ".npz", ".safetensors"):
        entry.fault("file", "a data set is an .npz or a .safetensors file")
    return DataSet(
        tags=entry.tags(),
        path=path,
        tensor=entry.text("tensor"),
        unsafe_interactive=entry.flag("unsafe_interactive", default=False),
    )


def _check_peers(configuration: NodeConfiguration, faults: list[str]) -> None:
    """One key has one name, one name has one key, and no list names a key twice."""
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    lists: tuple[tuple[str, tuple[Researcher | Neighbour, ...]], ...] = (
        ("researchers", configuration.researchers),
        ("workers", configuration.workers),
    )
    for where, peers in lists:
        seen: set[str] = set()
        for index, peer in enumerate(peers):
            if not peer.name or not peer.fingerprint:
                continue  # reported already
            place = f"{where}[{index}]"
            if peer.fingerprint in seen:
                faults.append(f"{place}.fingerprint: this key is listed twice")
            elif names.setdefault(peer.fingerprint, peer.name) != peer.name:
                faults.append(f"{place}.name: this key is called {names[peer.fingerprint]!r} elsewhere in this file")
            elif keys.setdefault(peer.name, peer.fingerprint) != peer.fingerprint:
                faults.append(f"{place}.name: another key is called {peer.name!r} in this file")
            seen.add(peer.fingerprint)


_SIZE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|min|h)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_DEVICE: Final = re.compile(r"cpu|cuda(?::\d{1,3})?")

T = TypeVar("T")


class _Table:
    """One table of the file. Each method reads one key; what is wrong with it is noted, and a stand-in returned."""

    def __init__(self, data: Mapping[str, Any], place: str, faults: list[str]) -> None:
        self._data = data
        self._place = place
        self._faults = faults
        self._read: set[str] = set()
        self._children: list[_Table] = []

    def fault(self, key: str, text: str) -> None:
        self._faults.append(f"{self._place}{key}: {text}")

    def finish(self) -> None:
        """Notes every key that nobody read."""
        for key in self._data:
            if key not in self._read:
                known = ", ".join(sorted(self._read)) or "none"
                self.fault(key, f"there is no such key; the keys here are: {known}")
        for child in self._children:
            child.finish()

    def _take(self, key: str, kind: type[T], what: str, default: T | None) -> T | None:
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

    def table(self, key: str) -> _Table:
        child = _Table(self._take(key, dict, "a table", {}) or {}, f"{self._place}{key}.", self._faults)
        self._children.append(child)
        return child

    def tables(self, key: str) -> list[_Table]:
        children: list[_Table] = []
        for index, entry in enumerate(self._take(key, list, f"a list of tables, [[{key}]]", []) or []):
            if isinstance(entry, dict):
                children.append(_Table(entry, f"{self._place}{key}[{index}].", self._faults))
            else:
                self.fault(f"{key}[{index}]", f"must be a table, [[{key}]]")
        self._children += children
        return children

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self._take(key, str, "a text", default)
        if value is not None and not (value.strip() and value.isprintable()):
            self.fault(key, "must be a text of printable characters")
        return value or ""

    def name(self, key: str) -> str:
        value = self.text(key)
        if len(value) > NAME_CHARS:
            self.fault(key, f"is longer than {NAME_CHARS} characters")
        return value

    def tags(self) -> tuple[str, ...]:
        tags = self._take("tags", list, "a list of texts", None)
        if tags is None:
            return ()
        if not 1 <= len(tags) <= TAGS:
            self.fault("tags", f"must be 1 to {TAGS} texts")
        for tag in tags:
            if not (isinstance(tag, str) and tag.strip() and tag.isprintable() and len(tag) <= NAME_CHARS):
                self.fault("tags", f"each must be a text of 1 to {NAME_CHARS} printable characters")
                return ()
        return tuple(tags)

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._take(key, bool, "true or false", default))

    def whole(self, key: str, *, default: int, least: int, most: int) -> int:
        value = self._take(key, int, f"a whole number from {least} to {most}", default)
        if value is None:
            return default
        if not least <= value <= most:
            self.fault(key, f"must be a whole number from {least} to {most}")
        return value

    def size(self, key: str, *, default: str, least: int) -> int:
        text = self._take(key, str, 'a size such as "512 MiB"', default) or default
        match = _SIZE.fullmatch(text)
        if match is None:
            self.fault(key, f'must be a size such as "512 MiB"; the units are {", ".join(_SIZE_UNITS)}')
            return least
        value = int(float(match[1]) * _SIZE_UNITS[match[2]])
        if not least <= value <= SIZE:
            self.fault(key, f"must be from {least} to {SIZE} bytes")
        return value

    def duration(self, key: str, *, default: str, most_s: float) -> float:
        text = self._take(key, str, 'a time such as "10 s"', default) or default
        match = _DURATION.fullmatch(text)
        if match is None:
            self.fault(key, f'must be a time such as "10 s"; the units are {", ".join(_DURATION_UNITS)}')
            return 0.0
        value = float(match[1]) * _DURATION_UNITS[match[2]]
        if value > most_s:
            self.fault(key, f"must be at most {most_s:g} s")
        return value

    def fingerprint(self) -> str:
        value = self._take("fingerprint", str, "a key's fingerprint, as `cloister key show` prints it", None)
        if value is None:
            return ""
        try:
            return check_fingerprint(value)
        except ConfigurationError as fault:
            self.fault("fingerprint", str(fault))
            return ""

    def device(self, key: str) -> str:
        value = self.text(key, default="cpu")
        if value and not _DEVICE.fullmatch(value):
            self.fault(key, 'must be "cpu", "cuda" or "cuda:" and a number')
        return value

    def listening(self, key: str) -> Address:
        return self._address(key) or Address("", 0)

    def dialled(self, key: str) -> Address | None:
        self._read.add(key)
        if key not in self._data:
            return None
        address = self._address(key)
        if address is not None and not address.port:
            self.fault(key, "a worker is dialled at a port of its own, not at 0")
        return address

    def _address(self, key: str) -> Address | None:
        value = self._take(key, str, 'an address such as "bob.example:7443"', None)
        if value is None:
            return None
        try:
            return parse_address(value)
        except ConfigurationError as fault:
            self.fault(key, str(fault))
            return None
