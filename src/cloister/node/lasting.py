"""Small files of a node's memory, written for good: what was written survives a crash and a loss of power."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(file: Path, text: str) -> None:
    """Writes a file whole, or leaves the one before; its folder is made if it is not there.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".charter.")
    os.close(descriptor)
    draft = Path(name)
    try:
        draft.write_text(text, encoding="utf-8", newline="")
        _sync(draft)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
