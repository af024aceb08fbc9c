"""What a node keeps in a file of its own beside its records: the job under way, the buffers that stay at home. No
promise hangs on it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cloister import files
from cloister.wire.limits import JOB_BYTES


def read(file: Path) -> bytes | None:
    """What ``write`` wrote, a job's length at most; None if there is nothing. Whoever decodes it sees whether it is
    whole."""
    try:
        return files.read(file, limit=JOB_BYTES)
    except OSError:
        return None


def write(file: Path, data: bytes) -> None:
    """Writes the file whole or not at all; no ``data``: removes it. A crash does not undo it.

    Raises:
        OSError: it cannot be done.
    """
    if not data:
        file.unlink(missing_ok=True)
    else:
        descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "wb") as target:
                target.write(data)
                target.flush()
                os.fsync(target.fileno())
            Path(draft).replace(file)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
