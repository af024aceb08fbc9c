"""A charter in a file that a user names."""

from __future__ import annotations

import os

from cloister.charter.charter import Charter
from cloister.charter.toml import parse_charter
from cloister.files import read_text
from cloister.tables import TEXT_BYTES


def read_charter(path: str | os.PathLike[str]) -> Charter:
    """The charter in a file.

    Raises:
        CharterError: it has faults, all of which are listed. ConfigurationError: the file cannot be read.
    """
    return parse_charter(read_text(path, limit=TEXT_BYTES), source=str(path))
