"""What an operator might try: the same software with one byte changed, behind the same address."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import cloister
from cloister.errors import ConfigurationError

CHANGED: Final = Path("net", "strangers.py")
_BEFORE, _AFTER = b"STRANGERS: Final = 8\n", b"STRANGERS: Final = 9\n"


def tampered_copy(folder: Path) -> Path:
    """A copy of this package in ``folder`` with one byte changed; returns what to put on PYTHONPATH.

    Raises:
        ConfigurationError: the byte is not where it is expected.
    """
    package = Path(cloister.__file__).parent
    shutil.copytree(package, folder / "cloister", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "cloister" / CHANGED
    source = file.read_bytes()
    if source.count(_BEFORE) != 1:
        raise ConfigurationError(f"{CHANGED} does not hold what the demonstration would change")
    file.write_bytes(source.replace(_BEFORE, _AFTER))
    return folder
