"""What an owner should be wary of in a study file: its charter, its plans, its jobs, its first model's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from cloister.charter.jobs import AgreedJob
from cloister.charter.names import shown
from cloister.charter.warnings import warnings_of
from cloister.models import traps
from cloister.plans.look import Look
from cloister.study.published import numbers
from cloister.study.study_file import StudyFile
from cloister.wire.layout import FLOATS
from cloister.wire.text import quoted

_MANY_ROWS: Final = 64
"""Of a step with so many rows, none of centred columns was read, however wide the layer (docs/threat-model.md)."""
_ORDER: Final = ("danger", "warning", "note")


class Warned(NamedTuple):
    """One warning: how grave it is, and a sentence."""

    severity: str
    text: str


def warnings_about(study: StudyFile, looks: Mapping[bytes, Look]) -> list[Warned]:
    """All warnings, the gravest first. ``looks``: what was seen of each plan, by its digest."""
    found = [Warned("warning", text) for text in warnings_of(study.charter)]
    for plan, seen in looks.items():
        found += _plan(study, plan, seen)
    return sorted([*found, *_bases(study), *_traps(study)], key=lambda each: _ORDER.index(each.severity))


def _plan(study: StudyFile, plan: bytes, seen: Look) -> Iterator[Warned]:
    jobs = [job for job in study.charter.jobs if job.plan == plan]
    named = ", ".join(shown(job.name) for job in jobs)
    for finding in seen.findings:
        if finding.severity != "fine":
            yield Warned(finding.severity, f"plan of {named}, {finding.where}: {finding.text}")
    if not seen.averages:
        yield Warned("warning", f"plan of {named}: it is not proved that every result takes all rows alike")
    for job in jobs:
        if job.sampling is None and job.batch_size < seen.widest:  # noise hides rows that are drawn
            numbers = any(each.dtype in FLOATS for each in study.program(plan).batch)
            yield Warned("warning", _wide(job, seen.widest, numbers=numbers))


def _wide(job: AgreedJob, units: int, *, numbers: bool) -> str:
    """Whatever the batch is: a unit that one row of a step sets off has that row as its gradient. ``numbers``: whether
    a column holds some that could be centred, as text does not."""
    wider = f"job {shown(job.name)}: a layer of {units} units is wider than a step's {job.batch_size} rows"
    more = f"take {_MANY_ROWS} at least" if job.batch_size < _MANY_ROWS else "take more"
    if not numbers:
        return f"{wider}: what it is given of single rows can be read out of such rounds; of rows in a step, {more}"
    centred = (
        f". With fewer than {_MANY_ROWS} rows in a step, rows of centred columns have been read too: {more}"
        if job.batch_size < _MANY_ROWS
        else ""
    )
    return (
        f"{wider}: rows of columns that are not centred have been read out of such rounds; centre the columns, or put"
        f" BatchNorm before the layer{centred}"
    )


def _bases(study: StudyFile) -> Iterator[Warned]:
    for base in study.charter.bases:
        yield Warned(
            "note",
            f"base {shown(base.name)}: its values are in {len(base.files)} file(s) that are known here by their digests"
            " alone, and are not looked at for traps: compare the digests with what their publisher tells",
        )


def _traps(study: StudyFile) -> Iterator[Warned]:
    if study.vector is None:
        yield Warned("warning", "first model: its values are not in this file, and were not looked at for traps")
        return
    values, layout = np.frombuffer(study.vector, study.layout.dtype), study.layout
    tensors = {place.name: values[place.start : place.stop].reshape(place.spec.shape) for place in layout.places}
    for each in study.tensors.constants:  # a trap may as well be in what stays as it is
        if each.spec.dtype in FLOATS:
            tensors[each.name] = numbers(each.data, each.spec.dtype).reshape(each.spec.shape)
    for trap in traps.find(tensors):
        severity = "danger" if trap.severity == "grave" else "warning"
        tensor = " after ".join(map(quoted, trap.tensor.split(" after ")))
        yield Warned(severity, f"first model, {tensor}: {trap.text}")
