"""The files in which members' signatures of a charter are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloister.charter.charter import MEMBERS
from cloister.charter.signatures import FILE_BYTES, FORMAT, Signature, decode
from cloister.charter.succession import FORMAT as HAND_OVER_FORMAT
from cloister.errors import CharterError
from cloister.files import matching, read_text

HAND_OVER: Final = ".handover"
"""The end of the name of a file in which an owner's former key has signed."""
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
    return _read(folder, "*.sig", FORMAT)


def read_hand_overs(folder: Path) -> tuple[Signature, ...]:
    """The signatures of owners' former keys, in a folder's ``*.handover`` files, as ``read_signatures``."""
    return _read(folder, f"*{HAND_OVER}", HAND_OVER_FORMAT)


def _read(folder: Path, pattern: str, form: str) -> tuple[Signature, ...]:
    files = matching(folder, pattern, limit=_SIGNATURES)
    if len(files) > _SIGNATURES:
        raise CharterError(f"{folder} holds more than {_SIGNATURES} signatures; keep those of this charter's members")
    return tuple(
        decode(read_text(file, limit=FILE_BYTES, error=CharterError), source=str(file), form=form) for file in files
    )
