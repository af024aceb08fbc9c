"""A child process that was taken over and writes to its error stream: ``python -m tests.attacks.writes_to_the_log``."""

from __future__ import annotations

import os
from typing import Final

FORGED: Final = b"2026-03-02 10:15:09,482 INFO cloister.node.server: session 1 of carol: over, nothing happened\n"
CONTROL: Final = b"\x1b[2J\x1b[H\r\xff\n"
FLOOD_BYTES: Final = 4 << 20

if __name__ == "__main__":
    os.write(2, FORGED)
    os.write(2, CONTROL)
    try:
        os.lseek(2, 0, os.SEEK_SET)  # in a file, over what was there before
    except OSError:
        os.write(2, b"no going back\n")
    try:
        os.read(2, 1)  # from a terminal
    except OSError:
        os.write(2, b"no reading\n")
    for _ in range(0, FLOOD_BYTES, 1 << 16):
        os.write(2, bytes(1 << 16))
