"""Writing a study file, from what a researcher's script has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, ConfigurationError
from cloister.files import read_text
from cloister.study.job import describe
from cloister.study.study_file import VALUES_BYTES, encode
from cloister.tables import TEXT_BYTES
from cloister.worker.plans import Plan


def write_study(
    path: str | os.PathLike[str],
    *,
    charter: str | os.PathLike[str],
    plans: Sequence[Plan],
    model: nn.Module,
    text: str = "",
) -> None:
    """Writes all that owners sign into one file, for ``cloister study show`` and ``cloister charter sign``.

    Args:
        charter: charter.toml. plans: those of its jobs. model: its first model. text: what the study is for.

    Raises:
        CharterError: the charter has faults, or the plans or the model are not those that it names.
        ConfigurationError: a file cannot be read or written.
    """
    written = read_text(charter, limit=TEXT_BYTES, error=CharterError)
    parts, constants, vector = describe(model)
    known = parse_charter(written, source=str(charter))
    values = None if known.recipe or vector.nbytes > VALUES_BYTES else vector.tobytes()
    data = encode(
        text=text,
        charter=written,
        plans=tuple(plan.encode() for plan in plans),
        parts=parts,
        constants=constants,
        vector=values,
    )
    try:
        Path(path).write_bytes(data)
    except OSError as fault:
        raise ConfigurationError(f"{path} cannot be written: {fault.strerror}") from None
