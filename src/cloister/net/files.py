"""Small text files that a user names."""

from __future__ import annotations

import os
from pathlib import Path

from cloister.charter.charter import Charter
from cloister.errors import ConfigurationError


def read_text(
    path: str | os.PathLike[str], *, limit: int = 1 << 20, error: type[ConfigurationError] = ConfigurationError
) -> str:
    """A text file of at most ``limit`` bytes.

    Raises:
        error: it cannot be read, is too long, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise error(f"{path} is longer than {limit} bytes")
        return data.decode()
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise error(f"{path} is not UTF-8 text") from None


def read_charter(path: str | os.PathLike[str]) -> Charter:
    """The charter in a file.

    Raises:
        CharterError: it has faults, all of which are listed. ConfigurationError: the file cannot be read.
    """
    return Charter.parse(read_text(path), source=str(path))
