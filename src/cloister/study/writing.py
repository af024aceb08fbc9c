"""Writing a study file, from what a researcher's script has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cloister import files
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, ConfigurationError
from cloister.net.files import read_charter_text
from cloister.study.base import Base
from cloister.study.job import describe
from cloister.study.study_file import VALUES_BYTES, encode
from cloister.tensor.held import buffers_of, parameters_of
from cloister.worker.plans import Plan, check_plan
from cloister.worker.rows_apart import check_rows_apart


def write_study(
    path: str | os.PathLike[str],
    *,
    charter: str | os.PathLike[str],
    plans: Sequence[Plan],
    model: nn.Module,
    base: Base | None = None,
    text: str = "",
    overwrite: bool = False,
) -> None:
    """Writes all that owners sign into one file, for ``cloister study show`` and ``cloister charter sign``.

    Args:
        charter: charter.toml. plans: those of its jobs. model: its first model. text: what the study is for.
        base: the files of the charter's ``[[bases]]`` in which the model's frozen tensors are.
        overwrite: whether a file that is there may go; what others have signed is then another study's.

    Raises:
        CharterError: the charter has faults, or the plans or the model are not those that it names.
        ConfigurationError: a file cannot be read or written, or is there already.
        PlanError: a plan mixes rows, and its job draws them.
    """
    for plan in plans:
        check_plan(plan)
    written = read_charter_text(charter, error=CharterError)
    known = parse_charter(written, source=str(charter))
    home_buffers = known.limits.home_buffers
    found = {describe(model, plan, base=base, home_buffers=home_buffers).tensors: plan for plan in plans}
    if len(found) != 1:
        raise ConfigurationError(
            "a study file is of one model: give the plans of the charter's jobs, which all learn the same of it; what"
            " learns something else belongs into a study of its own"
        )
    tensors, vector = describe(model, plans[0], base=base, home_buffers=home_buffers)
    for plan in plans:
        if any(job.sampling is not None and job.plan == plan.digest for job in known.jobs):
            held = parameters_of(model), buffers_of(model)
            check_rows_apart(plan, parameters=held[0], buffers=held[1])
    values = None if known.recipe or vector.nbytes > VALUES_BYTES else vector.tobytes()
    data = encode(
        text=text,
        charter=written,
        plans=tuple(plan.encode() for plan in plans),
        tensors=tensors,
        vector=values,
    )
    try:
        with Path(path).open("wb" if overwrite or _holds(path, data) else "xb") as file:
            file.write(data)
    except FileExistsError:
        raise ConfigurationError(
            f"{path} exists, with other content, and is not overwritten; name another file, or say overwrite=True"
        ) from None
    except OSError as fault:
        raise ConfigurationError(f"{path} cannot be written: {fault.strerror}") from None


def _holds(path: str | os.PathLike[str], data: bytes) -> bool:
    """Whether a script is run again that has written the very same."""
    try:
        return files.read(path, limit=len(data)) == data
    except OSError:
        return False
