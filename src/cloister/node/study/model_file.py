"""The newest model of a study, as a node keeps it: one file, and what shows that it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from cloister import files
from cloister.aggregation.strategies import State
from cloister.errors import RoundError
from cloister.ledger.job import name_of_values
from cloister.ledger.records import state_digest
from cloister.node.study.journal import Kept

Values: TypeAlias = bytes | memoryview
"""A vector's bytes, which nobody changes."""


class Model(NamedTuple):
    """A model's vector and what the server's rule remembers, as bytes."""

    digest: bytes
    vector: Values
    state: tuple[Values, ...] = ()
    rounds: int = 0
    tensors: bytes = b""
    """``cloister.ledger.job.tensors_digest``, once it has shown that the vector is of that name."""
    state_digest: bytes | None = None
    """``state_digest_of`` the state."""


def state_digest_of(rounds: int, state: Sequence[Values]) -> bytes | None:
    """The name of what a server's rule remembers after so many rounds (``state_digest``), from its vectors' bytes.

    Raises:
        RoundError: they are no vectors of float64.
    """
    if not state:
        return None
    if any(len(part) % 8 for part in state):
        raise RoundError("the state of the server's rule is no vector of numbers")
    averages = [np.frombuffer(part, np.float64) for part in state]
    return state_digest(State(rounds, averages[0], averages[1] if len(averages) > 1 else None))


def read(file: Path, *, kept: Kept) -> Model | None:
    """What ``write`` wrote; None where it is gone or damaged: others have it."""
    try:
        content = memoryview(files.read(file, limit=sum(kept.sizes)))
    except OSError:
        return None
    if len(content) != sum(kept.sizes):
        return None
    vector, *state = _cut(content, kept.sizes)
    if (name_of_values(kept.tensors, vector), state_digest_of(kept.rounds, state)) != (kept.model, kept.state):
        return None
    return Model(kept.model, vector, tuple(state), kept.rounds, kept.tensors, kept.state)


def write(file: Path, parts: Sequence[Values]) -> None:
    """A file that is there whole, or not at all. Nothing waits for the disk: should a loss of power damage it, its hash
    tells, and others have the model."""
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=".model.")
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.writelines(parts)
        Path(draft).replace(file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _cut(content: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    parts, at = [], 0
    for size in sizes:
        parts.append(content[at : at + size])
        at += size
    return parts
