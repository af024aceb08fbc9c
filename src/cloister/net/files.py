"""A charter in a file that a user names."""

from __future__ import annotations

import os
from typing import Final

from cloister.charter.charter import Charter
from cloister.charter.toml import parse_charter
from cloister.errors import ConfigurationError
from cloister.files import opened, read_text
from cloister.tables import TEXT_BYTES

_STUDY: Final = b"cloister study "
"""What a study file begins with, nearly."""
_HEAD_BYTES: Final = 64


def read_charter(path: str | os.PathLike[str], *, error: type[ConfigurationError] = ConfigurationError) -> Charter:
    """The charter in a file.

    Raises:
        CharterError: it has faults, all of which are listed. ``error``: the file cannot be read, or is a study file.
    """
    return parse_charter(read_charter_text(path, error=error), source=str(path))


def read_charter_text(path: str | os.PathLike[str], *, error: type[ConfigurationError] = ConfigurationError) -> str:
    """The text in a charter's file. Nothing of it is checked, but that it is no study file.

    Raises:
        error: the file cannot be read, or is a study file.
    """
    try:
        with opened(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        head = b""  # it is told below
    if _STUDY in head:
        raise error(
            f"{path} is a study file, and a charter is wanted here: `cloister study unpack {path}` writes the one that"
            f" is in it, and `cloister study show {path}` prints all of it"
        )
    hint = f"`cloister charter new {path} --name NAME` writes one to fill in"
    return read_text(path, limit=TEXT_BYTES, error=error, hint=hint)
