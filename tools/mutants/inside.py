"""Runs pytest on another copy of a package than the installed one, or not at all.

    python tools/mutants/inside.py SOURCE PACKAGE [what pytest takes ...]

It is run as a file, in the folder that the tests belong to, with SOURCE first on PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

NOT_THE_COPY: Final = 90
"""The exit status where the package would come from somewhere else: what the tests say would mean nothing."""


def origin(package: str) -> Path | None:
    """The file that importing a package would run; None where there is none."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).resolve()


def main(source: str, package: str, *arguments: str) -> int:
    """Pytest's exit status, or ``NOT_THE_COPY``."""
    sys.path[0] = os.getcwd()  # as `python -m pytest` has it, in place of this file's folder
    file = origin(package)
    if file is None or not file.is_relative_to(Path(source).resolve()):
        print(f"{package} would be imported from {file}, which is not in {source}")
        return NOT_THE_COPY
    import pytest

    return int(pytest.main(list(arguments)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
