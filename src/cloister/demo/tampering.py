"""What an operator might try: the same software with one byte changed, behind the same address."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import cloister
from cloister.errors import ConfigurationError
from cloister.testing.studies import AGGREGATOR, LocalStudy

_DIALLED_S: Final = 60.0
_REFUSED: Final = r"the aggregator at \S+ cannot be taken part with: (genuine, but not acceptable: .*)"
CHANGED: Final = Path("attest", "listed.py")
"""Where an aggregator looks whether the charter lists it, which no tampered one does."""
_BEFORE, _AFTER = b"if listed < 1:\n", b"if listed < 0:\n"


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


def replace_aggregator(local: LocalStudy, folder: Path) -> None:
    """Kills the aggregator, and starts a tampered one at its address. ``folder`` is for the copy."""
    environment = {"PYTHONPATH": str(tampered_copy(folder))}
    local.kill(AGGREGATOR)
    local.start_aggregator(environment=environment)


def refusals(local: LocalStudy) -> dict[str, str]:
    """What each owner's node, which dials again by itself, says of the tampered one in its log.

    Raises:
        NoAnswerError: one has not said anything in time.
    """
    return {name: local.found(name, _REFUSED, within_s=_DIALLED_S) for name in local.identities}
