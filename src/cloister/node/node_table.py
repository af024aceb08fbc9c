"""The values that only a node.toml holds, read from its tables with every fault noted."""

from __future__ import annotations

import re
from typing import Final

from cloister.tables import LIST_ITEMS, Table
from cloister.wire.limits import NAME_CHARS, TAGS
from cloister.wire.peers import Address, check_fingerprint, parse_address

SIZE: Final = 1 << 48
"""The greatest size that may be written, in bytes."""

_SIZE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)")
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
_DEVICE: Final = re.compile(r"cpu|cuda(?::\d{1,3})?")


class NodeTable(Table):
    """A table with what only a node.toml holds."""

    def name(self, key: str) -> str:
        return self.text(key, most=NAME_CHARS)

    def size(self, key: str, *, default: str, least: int) -> int:
        """A size such as ``512 MiB``, in bytes; ``least`` where it is faulty."""
        text = self.take(key, str, 'a size such as "512 MiB"', default) or default
        match = _SIZE.fullmatch(text)
        if match is None:
            self.fault(key, f'must be a size such as "512 MiB"; the units are {", ".join(_SIZE_UNITS)}')
            return least
        value = int(float(match[1]) * _SIZE_UNITS[match[2]])
        if not least <= value <= SIZE:
            self.fault(key, f"must be from {least} to {SIZE} bytes")
        return value

    def some_time(self, key: str, *, default_s: float, most_s: float) -> float:
        """A time such as ``10 s`` that is not zero, in seconds."""
        count = len(self._faults)
        value = self.duration(key, default=f"{default_s:.0f} s", most_s=most_s)
        if not value and len(self._faults) == count:
            self.fault(key, "must be more than 0 s")
        return value or default_s

    def tags(self) -> tuple[str, ...]:
        return self._texts("tags", most=TAGS)

    def columns(self) -> tuple[str, ...]:
        columns = self._texts("columns", most=LIST_ITEMS)
        if len(set(columns)) != len(columns):
            self.fault("columns", "names a column twice")
        return columns

    def _texts(self, key: str, *, most: int) -> tuple[str, ...]:
        texts = self.take(key, list, "a list of texts", None)
        if texts is None:
            return ()
        if not 1 <= len(texts) <= most:
            self.fault(key, f"must be 1 to {most} texts")
        for text in texts:
            if not (isinstance(text, str) and text.strip() and text.isprintable() and len(text) <= NAME_CHARS):
                self.fault(key, f"each must be a text of 1 to {NAME_CHARS} printable characters")
                return ()
        return tuple(texts)

    def fingerprint(self, key: str = "fingerprint") -> str:
        what = "a key's fingerprint, as `cloister key show` prints it"
        return self.checked(key, what=what, check=check_fingerprint) or ""

    def device(self, key: str) -> str:
        value = self.text(key, default="cpu")
        if value and not _DEVICE.fullmatch(value):
            self.fault(key, 'must be "cpu", "cuda" or "cuda:" and a number')
        return value

    def listening(self, key: str) -> Address:
        return self._address(key) or Address("", 0)

    def dialled(self, key: str) -> Address | None:
        address = self._address(key) if self.holds(key) else None
        if address is not None and not address.port:
            self.fault(key, "a worker is dialled at a port of its own, not at 0")
        return address

    def _address(self, key: str) -> Address | None:
        return self.checked(key, what='an address such as "bob.example:7443"', check=parse_address)
