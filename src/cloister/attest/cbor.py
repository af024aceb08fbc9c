"""CBOR (RFC 8949) that came from elsewhere, as plain data: numbers, texts, bytes, arrays and maps.

``cbor2`` gives many tags a meaning, and one of them is a regular expression, which it compiles: 4 KB of those took five
seconds. Here every tag that it knows is refused, and of all others only the number is told.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import cbor2

from cloister.errors import EvidenceError

DEPTH: Final = 8
"""How deep arrays, maps and tags may stand in one another."""

KNOWN: Final = (
    *range(6),  # times, large numbers
    *(25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799),
)
"""The tags that ``cbor2`` knows. ``tests/test_parsers.py`` looks whether there are more."""

_FAULTS: Final = (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)


def decode(data: bytes, *, what: str) -> Any:
    """The one value that ``data`` is, in definite lengths and with nothing behind it; ``what`` is its name in messages.
    Whoever calls has bounded its length.

    Raises:
        EvidenceError: it is something else.
    """
    stream = BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream,
        semantic_decoders=dict.fromkeys(KNOWN, _refuse),
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
        max_depth=DEPTH,
    )
    try:
        value = decoder.decode()
    except _FAULTS:
        raise EvidenceError(f"{what} is not CBOR that is read here") from None
    if stream.tell() != len(data):
        raise EvidenceError(f"{what} has bytes behind its end")
    return value


def _refuse(*_: object) -> Any:
    raise ValueError("a tag that has no place here")
