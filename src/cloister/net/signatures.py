"""The files in which members' signatures of a charter are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloister.charter.charter import MEMBERS
from cloister.charter.signatures import FILE_BYTES, Signature, decode
from cloister.errors import CharterError
from cloister.files import matching, read_text

_SIGNATURES: Final = 4 * MEMBERS
"""The most signature files that are read."""


def signatures_beside(file: Path) -> Path:
    """Where the signatures of a charter are kept, unless another folder is named: ``charter.sigs`` for charter.toml."""
    return file.with_suffix(".sigs") if file.name else file


def read_signatures(folder: Path) -> tuple[Signature, ...]:
    """The signatures in a folder's ``*.sig`` files, unchecked; none where there is no folder.

    Raises:
        CharterError: a file is no signature or cannot be read, or there are too many.
    """
    files = matching(folder, "*.sig", limit=_SIGNATURES)
    if len(files) > _SIGNATURES:
        raise CharterError(f"{folder} holds more than {_SIGNATURES} signatures; keep those of this charter's members")
    return tuple(decode(read_text(file, limit=FILE_BYTES, error=CharterError), source=str(file)) for file in files)
