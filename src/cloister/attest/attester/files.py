"""One write and one read, as the special files of a TEE want them: unbuffered, and never more than expected."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cloister.errors import NoTeeError


def write(path: Path, data: bytes) -> None:
    """Writes all of ``data`` in one call to a file that is there.

    Raises:
        OSError: the kernel refuses it, at the write or when the file is closed.
        NoTeeError: it took a part only, which no second call can mend.
    """
    with _opened(path, os.O_WRONLY) as descriptor:
        taken = os.write(descriptor, data)
    if taken != len(data):
        raise NoTeeError(f"{path} took {taken} of {len(data)} bytes: this is not the TEE's interface as it should be")


def read(path: Path, *, limit: int) -> bytes:
    """All that the file says, at most ``limit`` bytes.

    Raises:
        OSError: the kernel refuses it.
        NoTeeError: it says more.
    """
    said = b""
    with _opened(path, os.O_RDONLY) as descriptor:
        while len(said) <= limit and (part := os.read(descriptor, limit + 1 - len(said))):
            said += part
    if len(said) > limit:
        raise NoTeeError(f"{path} says more than {limit} bytes: this is not the TEE's interface as it should be")
    return said


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as fault:
        fault.filename = str(path)  # a read or write does not say it by itself
        raise
