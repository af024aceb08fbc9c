"""The seed of each random operation of each step."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

_DOMAIN: Final = b"cloister plan seed 1\0"
_MASK: Final = (1 << 64) - 1


def seed_of(run: int, *, step: int, line: int) -> int:
    """A signed 64-bit seed: the first eight bytes, little-endian, of SHA-256 over a fixed text, the run's seed, the
    step and the number of the plan's line, each as 64 bits, little-endian."""
    message = _DOMAIN + struct.pack("<QQQ", run & _MASK, step & _MASK, line & _MASK)
    return int(struct.unpack("<q", hashlib.sha256(message).digest()[:8])[0])
