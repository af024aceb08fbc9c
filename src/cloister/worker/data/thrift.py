"""Thrift's compact protocol, as far as the headers in a Parquet file need it, read without believing it.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

STRUCT: Final = 12
LIST: Final = 9
I32: Final = 5
I64: Final = 6
"""Types."""

_BINARY: Final = 8
_I16: Final = 4
_SET: Final = 10
_FIXED: Final = {1: 0, 2: 0, 3: 1, 7: 8, 13: 16}
"""How many bytes a value takes, by its type: true, false, a byte, a double, a UUID. In a list it is at least one."""
ITEMS: Final = 1 << 16
"""The most items of a list: columns and row groups of a file."""
_DEPTH: Final = 8
"""How deep structures and lists may stand in one another; in Parquet's it is five."""


class Reader:
    """Bytes that are read from the front; ``at`` is how far. Every method raises ``ValueError`` for what is broken."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """The number and type of each field of a structure; whoever asks reads or skips its value before the next.

        Their numbers rise, as every writer has them: what a field means that comes twice is nobody's to say."""
        number = 0
        while head := self._byte():
            before, number = number, number + (head >> 4) if head >> 4 else self.integer()
            if number <= before:
                raise ValueError("a header of it has its fields in no order")
            yield number, head & 15

    def items(self) -> tuple[int, int]:
        """How many items a list has, each of at least one byte, and of which type."""
        head = self._byte()
        count = self._varint() if head >> 4 == 15 else head >> 4
        if count > min(ITEMS, len(self._data) - self.at):
            raise ValueError(f"a list in a header of it claims {count} items, and {ITEMS} are read at most")
        return count, head & 15

    def integer(self) -> int:
        """A signed integer."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def skip(self, kind: int, depth: int = _DEPTH, *, listed: bool = False) -> None:
        """Passes over a value."""
        if not depth:
            raise ValueError("a header of it is nested too deep")
        if kind in (_I16, I32, I64):
            self._varint()
        elif kind in _FIXED:
            self._pass(max(_FIXED[kind], listed))
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind == STRUCT:
            for _, of in self.fields():
                self.skip(of, depth - 1)
        elif kind in (LIST, _SET):
            count, of = self.items()
            for _ in range(count):
                self.skip(of, depth - 1, listed=True)
        else:
            raise ValueError("a header of it holds what none has")

    def _varint(self) -> int:
        value = shift = 0
        while (octet := self._byte()) & 0x80:
            value |= (octet & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a header of it has a number that is too long")
        return value | octet << shift

    def _byte(self) -> int:
        self._pass(1)
        return self._data[self.at - 1]

    def _pass(self, count: int) -> None:
        self.at += count
        if self.at > len(self._data):
            raise ValueError("a header of it does not end")
