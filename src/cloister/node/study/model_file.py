"""The newest model of a study, as a node keeps it: one file, with a check that it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cloister import files
from cloister.ledger.following import cut
from cloister.ledger.job import name_of_values
from cloister.ledger.sync import ModelState, Values
from cloister.node.study.entries import Kept


def read(file: Path, *, kept: Kept) -> ModelState | None:
    """Reads what ``write`` wrote; None if it is gone or damaged, since others have it."""
    try:
        content = memoryview(files.read(file, limit=sum(kept.sizes)))
    except OSError:
        return None
    if len(content) != sum(kept.sizes):
        return None
    vector, *averages = cut(content, kept.sizes)
    found = ModelState(name_of_values(kept.tensors, vector), vector, tuple(averages), kept.rounds)
    return found if (found.digest, found.state_digest) == (kept.model, kept.state) else None


def write(file: Path, parts: Sequence[Values]) -> None:
    """Writes the file whole or not at all. Nothing waits for the disk: if a loss of power damages it, its hash shows
    that, and others have the model."""
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=".model.")
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.writelines(parts)
        Path(draft).replace(file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
