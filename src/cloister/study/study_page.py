"""What an owner signs, on a page: for a person who runs nobody's code, and needs no PyTorch to read it.

Every line is made from the study file alone. Warnings come last, the gravest first; what they cannot see, noise and the
people behind the keys, no page shows.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from cloister.charter import summary
from cloister.charter.charter import Charter
from cloister.charter.jobs import FEWEST_BATCHES, AgreedJob
from cloister.charter.names import shown
from cloister.charter.warnings import warnings_of
from cloister.models import traps
from cloister.plans import words
from cloister.plans.look import look
from cloister.study.study_file import StudyFile

_WIDE_BATCH: Final = 64
"""The least rows of a step where a layer is wider than a step's rows."""
_WIDTH: Final = 100
_ORDER: Final = ("danger", "warning", "note")


class _Warning(NamedTuple):
    severity: str
    text: str


def page(study: StudyFile, *, code: bool = False) -> list[str]:
    """The page, line by line. ``code``: with all operations of the plans.

    Raises:
        PlanError: a plan names what is not there.
    """
    return [*_page(study, code=code)]


def diff(old: StudyFile, new: StudyFile) -> list[str]:
    """What another study file says otherwise, line by line, with some lines around; nothing where it says the same."""
    before, after = page(old, code=True), page(new, code=True)
    return list(difflib.unified_diff(before, after, "before", "after", lineterm=""))


def _page(study: StudyFile, *, code: bool) -> Iterator[str]:
    charter = study.charter
    yield f"study       {shown(charter.name)}, serial {charter.serial}"
    yield f"digest      {charter.digest.hex()}"
    yield f"valid       {charter.not_before:%Y-%m-%d} to {charter.not_after:%Y-%m-%d}"
    for line in study.text.splitlines():
        yield from (f"  {each}" for each in textwrap.wrap(_printable(line), _WIDTH))
    yield from _members(charter)
    for job in charter.jobs:
        yield from _job(study, job, code=code)
    yield from _model(study)
    yield from _leaves(study)
    yield ""
    yield "limits"
    yield from _items(summary.limits(charter.limits).items())
    yield from _warned(study)


def _members(charter: Charter) -> Iterator[str]:
    yield ""
    yield "who"
    for member in charter.members:
        yield f"  {member.role:<12}{shown(member.name)}, {member.key}"
    for entry in charter.reference:
        yield f"  {'software':<12}{shown(entry.name)}, {entry.tee}"


def _job(study: StudyFile, job: AgreedJob, *, code: bool) -> Iterator[str]:
    program = study.program(job.plan)
    yield ""
    yield f"job         {shown(job.name)}: what your node will compute"
    yield from _items(summary.job(job).items())
    yield from _items(_least(study.charter, job))
    yield "  the plan"
    yield from (f"    {line}" for line in str(words.describe(program)).splitlines())
    if code:
        yield from (f"    {line}" for line in words.code(program).splitlines())


def _least(charter: Charter, job: AgreedJob) -> Iterator[tuple[str, str]]:
    rows = max(charter.limits.min_examples, FEWEST_BATCHES * job.batch_size)
    yield (
        "least rows",
        (
            f"{job.batch_size} behind one step, {rows} behind one owner's update,"
            f" {charter.limits.floor * rows} of {charter.limits.floor} owners behind one release"
        ),
    )


def _model(study: StudyFile) -> Iterator[str]:
    charter, layout = study.charter, study.layout
    yield ""
    yield f"first model {'' if charter.limits.first_model is None else charter.limits.first_model.hex()}"
    if charter.recipe:
        yield "  drawn by the charter's recipe, which nobody can foresee; drawn again here, it is the charter's"
    elif charter.limits.first_model_file is not None:
        yield f"  published, in the file with the SHA-256 {charter.limits.first_model_file.hex()}"
    else:
        yield "  chosen by the researchers"
    yield f"  {layout.length:,} values in {len(study.parts)} tensors of {layout.dtype}:"
    drawn = {entry.tensor: entry for entry in charter.recipe}
    for part in study.parts:
        kind = "buffer" if part.buffer else "parameter"
        entry = drawn.get(part.name)
        numbers = [] if entry is None else [f"{entry.draw}"]
        for name in ("low", "high", "mean", "std", "value"):
            number = None if entry is None else getattr(entry, name)
            numbers += [] if number is None else [f"{name} {number:g}"]
        yield f"    {shown(part.name)} {part.spec}, {kind}{', ' + ' '.join(numbers) if numbers else ''}"
    for constant in study.constants:
        yield f"    {shown(constant.name)} {constant.spec}, stays as it is"


def _leaves(study: StudyFile) -> Iterator[str]:
    charter, limits = study.charter, study.charter.limits
    names = ", ".join(shown(member.name) for member in charter.researchers) or "nobody"
    metrics = ", ".join(shown(metric.name) for metric in limits.metrics)
    yield ""
    yield "what leaves this machine, in each round, towards attested software only"
    size = f"{study.layout.length:,} numbers, {study.layout.nbytes:,} bytes"
    yield f"  the update          {size}: what the model changed by"
    yield "  beside it           its length, a commitment to it, and one of the numbers of rows under row_buckets"
    yield f"  metrics             {metrics or 'none'}"
    yield "what comes out"
    yield f"  the model           the mean of at least {limits.floor} owners' updates, applied by the job's strategy"
    yield f"  to whom             all owners, and {names}"
    yield f"  how often           at most {limits.rounds} times in all; each owner's node can allow fewer"


def _warned(study: StudyFile) -> Iterator[str]:
    found = sorted(_warnings(study), key=lambda each: _ORDER.index(each.severity))
    yield ""
    yield "warnings" if found else "warnings    none"
    for each in found:
        lines = textwrap.wrap(_printable(each.text), _WIDTH)
        yield f"  {each.severity:<10}{lines[0]}"
        yield from (f"  {'':<10}{line}" for line in lines[1:])


def _warnings(study: StudyFile) -> Iterator[_Warning]:
    charter = study.charter
    for text in warnings_of(charter):
        yield _Warning("warning", text)
    for plan in study.plans:
        named = ", ".join(shown(job.name) for job in charter.jobs if job.plan == plan)
        seen = look(study.program(plan))
        for finding in seen.findings:
            if finding.severity != "fine":
                yield _Warning(finding.severity, f"plan of {named}, {finding.where}: {finding.text}")
        if not seen.averages:
            yield _Warning("warning", f"plan of {named}: it is not proved that every result takes all rows alike")
        for job in charter.jobs:
            if job.plan == plan and job.batch_size < min(_WIDE_BATCH, seen.widest):
                yield _Warning(
                    "warning",
                    f"job {shown(job.name)}: a layer of {seen.widest} units is wider than a step's {job.batch_size}"
                    f" rows, and single rows have been computed from such a step; take {_WIDE_BATCH} rows at least",
                )
    yield from _traps(study)


def _traps(study: StudyFile) -> Iterator[_Warning]:
    if study.vector is None:
        yield _Warning("warning", "first model: its values are not in this file, and were not looked at for traps")
        return
    values, layout = np.frombuffer(study.vector, study.layout.dtype), study.layout
    tensors = {place.name: values[place.start : place.stop].reshape(place.spec.shape) for place in layout.places}
    for trap in traps.find(tensors):
        severity = "danger" if trap.severity == "grave" else "warning"
        yield _Warning(severity, f"first model, {trap.tensor}: {trap.text}")


def _items(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield from (f"  {name:<20}{phrase}" for name, phrase in pairs)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
