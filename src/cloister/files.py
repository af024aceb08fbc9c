"""Files that somebody else may have written, read without waiting for them and never further than was asked for.

A pipe waits for whoever writes to it, a device may never end, and a file of a terabyte takes a few bytes of a disk. So
only regular files are read here (``open(2)`` with O_NONBLOCK, then ``fstat(2)`` of what was opened, so that nothing can
be put in its place in between), and of those no more bytes than the caller allows. Every file that the package reads is
opened by way of this module, or stands with its reason in ``tests/test_parsers.py``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice
from pathlib import Path

from cloister.errors import ConfigurationError

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@contextmanager
def opened(path: str | os.PathLike[str], *, limit: int | None = None) -> Iterator[BufferedReader]:
    """A regular file, to be read; ``limit``: the most bytes that it may have.

    Raises:
        OSError: it cannot be opened; it is something else than a regular file; it is longer, and nothing of it is read.
            ``strerror`` says which, as a sentence's end.
    """
    with open_regular(path, limit=limit) as file:
        yield file


def open_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> BufferedReader:
    """As ``opened``, for whoever closes the file elsewhere."""
    descriptor = os.open(path, _FLAGS)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file, and nothing else is read; copy it to one", str(path))
        if limit is not None and found.st_size > limit:
            raise _too_long(path, limit)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """All of a regular file of at most ``limit`` bytes, also where it grows meanwhile.

    Raises:
        OSError: as ``opened``.
    """
    with opened(path, limit=limit) as file:
        data = file.read(limit + 1)
    if data is None:  # a file of the kernel's that would have to be waited for
        raise OSError(errno.EAGAIN, "it has nothing to read yet", str(path))
    if len(data) > limit:
        raise _too_long(path, limit)
    return data


def read_text(
    path: str | os.PathLike[str],
    *,
    limit: int,
    error: type[ConfigurationError] = ConfigurationError,
    hint: str = "name another file",
) -> str:
    """A text file in UTF-8 of at most ``limit`` bytes; ``hint`` is what to do where there is none.

    Raises:
        error: it cannot be read, is no regular file, is too long, or is not UTF-8.
    """
    try:
        return read(path, limit=limit).decode()
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}; {hint}") from None
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text; {hint}") from None


def lines(path: str | os.PathLike[str], *, limit: int) -> Iterator[bytes]:
    """The lines of a regular file, their ends included, none of them read further than one byte over ``limit``.

    Raises:
        OSError: as ``opened``.
    """
    with opened(path) as file:
        while line := file.readline(limit + 1):
            yield line


def matching(folder: Path, pattern: str, *, limit: int) -> list[Path]:
    """The files of a folder that match, in order; at most one over ``limit`` of them, however many there are."""
    return sorted(islice(folder.glob(pattern), limit + 1))


def _too_long(path: str | os.PathLike[str], limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it is longer than {limit} bytes", str(path))


def identity_of(descriptor: int) -> tuple[int, int, int, int]:
    """What is another where a file is another, or was written to: inode, size, and when it was written and changed, in
    nanoseconds. Nobody sets the time of the last change (ctime), as archives do that of the last writing."""
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are of one file, by whatever links; also of one that is not there yet."""
    try:
        return one.samefile(other)
    except OSError:
        return Path(os.path.realpath(one)) == Path(os.path.realpath(other))
