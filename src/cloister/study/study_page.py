"""What an owner signs, on a page: for a person who runs nobody's code, and needs no PyTorch to read it.

Every line is made from the study file alone. Warnings come last, the gravest first; what they cannot see, the people
behind the keys above all, no page shows.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cloister.charter import summary
from cloister.charter.charter import Charter, Limits
from cloister.charter.jobs import FEWEST_BATCHES, AgreedJob
from cloister.charter.names import shown
from cloister.ledger.job import Based
from cloister.plans import words
from cloister.plans.look import Look, look
from cloister.study.privacy import privacy
from cloister.study.study_file import StudyFile
from cloister.study.study_warnings import Warned, warnings_about
from cloister.tensor.plan.learned import learned
from cloister.wire.fixed_point import SUM_BYTES
from cloister.wire.text import quoted, visible

_WIDTH: Final = 100
_SHOWN_TENSORS: Final = 8
"""So many of the tensors in a file of a base are listed, which may have thousands."""


def page(study: StudyFile, *, code: bool = False) -> list[str]:
    """The page, line by line. ``code``: with all operations of the plans.

    Raises:
        PlanError: a plan names what is not there.
    """
    # Whatever a line quotes, here it becomes one that steers no terminal.
    return [visible(line) for line in _page(study, code=code)]


def _page(study: StudyFile, *, code: bool) -> Iterator[str]:
    charter, looks = study.charter, {plan: look(study.program(plan)) for plan in study.plans}
    for name, phrase in summary.heading(charter):
        yield f"{'study' if name == 'charter' else name:<12}{phrase}"
    yield from _purpose(study.text)
    yield from _members(charter)
    for job in charter.jobs:
        yield from _job(study, job, looks[job.plan], code=code)
    yield from _model(study)
    yield from _leaves(study)
    yield ""
    yield "limits"
    yield from _items(summary.limits(charter.limits).items())
    if charter.limits.noise is not None:
        yield ""
        yield from privacy(charter)
    yield from _warned(warnings_about(study, looks))


def _purpose(text: str) -> Iterator[str]:
    """Each line behind a mark, so that nothing in it looks like one of the page's."""
    lines = [each for line in text.splitlines() for each in textwrap.wrap(visible(line), _WIDTH)]
    if lines:
        yield "in the words of whoever wrote this file, which the digest and the signatures do not cover"
        yield from (f"  | {line}" for line in lines)


def _members(charter: Charter) -> Iterator[str]:
    yield ""
    yield "who"
    for member in charter.members:
        yield f"  {member.role:<12}{summary.member(member)}"
    yield from (f"  {'aggregator':<12}{address}" for address in charter.addresses)
    for entry in charter.reference:
        yield ""
        yield f"software    {shown(entry.name)}: {entry.tee}"
        yield from _items((name, phrase) for name, phrase in summary.software(entry) if name != "name")


def _job(study: StudyFile, job: AgreedJob, seen: Look, *, code: bool) -> Iterator[str]:
    program = study.program(job.plan)
    yield ""
    yield f"job         {shown(job.name)}: what your node will compute"
    yield from _items(summary.job(job).items())
    if job.sampling is None:
        yield from _items(_least(study.charter, job))
    yield "  the plan"
    yield from (f"    {line}" for line in str(words.describe(program)).splitlines())
    proof = [finding.text for finding in seen.findings if finding.severity == "fine"] or ["not proved"]
    yield from (f"    {line}" for line in textwrap.wrap(f"rows:        {proof[0]}", _WIDTH, subsequent_indent=" " * 13))
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
    yield from _origin(study)
    yield f"  learned: {layout.length:,} values in {len(study.tensors.parts)} tensors of {layout.dtype}:"
    drawn = {entry.tensor: entry for entry in charter.recipe}
    for part in study.tensors.parts:
        kind = "buffer" if part.buffer else "parameter"
        entry = drawn.get(part.name)
        from_ = "" if entry is None else f", {summary.distribution(entry)}"
        yield f"    {quoted(part.name)} {part.spec}, {kind}{from_}"
    yield from _frozen(study)


def _frozen(study: StudyFile) -> Iterator[str]:
    """What is not learned: it stays as it is, and is never sent again."""
    for base in study.charter.bases:
        for file in base.files:
            held = [each for each in study.tensors.base if each.file == file]
            values = sum(each.spec.count() for each in held)
            yield f"  from the base {shown(base.name)}, as it is: {values:,} values in {len(held)} tensors of the file"
            yield f"    {file.hex()}"
            yield from (f"    {quoted(each.name)} {each.spec}{_renamed(each)}" for each in held[:_SHOWN_TENSORS])
            if len(held) > _SHOWN_TENSORS:
                yield f"    and {len(held) - _SHOWN_TENSORS} more"
    for constant in study.tensors.constants:
        home = constant.name in _written(study)
        yield f"    {quoted(constant.name)} {constant.spec}, {'stays at home' if home else 'stays as it is'}"


def _renamed(based: Based) -> str:
    return "" if based.tensor == based.name else f", which is {quoted(based.tensor)} there"


def _written(study: StudyFile) -> set[str]:
    """The buffers that the jobs' plans write and that each owner keeps to itself."""
    if not study.charter.limits.home_buffers:
        return set()
    return {name for plan in study.plans for name in learned(study.program(plan)).buffers}


def _origin(study: StudyFile) -> Iterator[str]:
    """Where the first model is from, and what of that was checked here."""
    charter = study.charter
    if charter.recipe:
        yield "  drawn by the charter's recipe, which nobody can foresee"
    elif charter.limits.first_model_file is not None:
        yield f"  published, in the file with the SHA-256 {charter.limits.first_model_file.hex()}"
    else:
        yield "  chosen by the researchers"
    if study.drawn:
        yield "  drawn again here: it is the charter's"
    elif study.vector is not None:
        yield "  its values are known here: they are the charter's"
    elif charter.recipe:
        yield "  too large to be drawn here, so not checked; each owner's node draws it before it trains"
    else:
        yield "  its values are not known here, so not checked: only its digest says what they are"
    if not study.plans:
        yield "  its tensors are held against no plan, since there is none"


def _leaves(study: StudyFile) -> Iterator[str]:
    charter, limits = study.charter, study.charter.limits
    names = ", ".join(shown(member.name) for member in charter.researchers) or "nobody"
    metrics = ", ".join(shown(metric.name) for metric in limits.metrics)
    noise = "" if limits.noise is None else ", with noise"
    combined = "the sum over drawn rows" if limits.hides == "record" else "the mean"
    whose = (
        f"at least {limits.floor} owners" if limits.hides == "record" else f"at least {limits.floor} owners' updates"
    )
    yield ""
    yield "what leaves this machine, in each round, towards attested software only"
    yield from _items(_sent(study, limits))
    yield f"  metrics             {metrics or 'none'}"
    yield "what comes out"
    yield f"  the model           {combined} of {whose}{noise}, applied by the job's strategy"
    yield f"  to whom             all owners, and {names}"
    yield f"  how often           at most {limits.rounds} times in all; each owner's node can allow fewer"


def _sent(study: StudyFile, limits: Limits) -> Iterator[tuple[str, str]]:
    length = study.layout.length
    if limits.hides == "record":
        size = f"{length:,} numbers, {length * SUM_BYTES:,} bytes"
        yield "the sum", f"{size}: the gradients of the rows that were drawn, each clipped, added up"
        yield "beside it", "a commitment to it; neither its length nor a number of rows"
        return
    rows = ", and one of the numbers of rows under row_buckets" if limits.row_buckets else ", and no number of rows"
    yield "the update", f"{length:,} numbers, {study.layout.nbytes:,} bytes: what the model changed by"
    yield "beside it", f"its length, a commitment to it{rows}"


def _warned(found: Sequence[Warned]) -> Iterator[str]:
    yield ""
    yield "warnings" if found else "warnings    none"
    for each in found:
        lines = textwrap.wrap(visible(each.text), _WIDTH)
        yield f"  {each.severity:<10}{lines[0]}"
        yield from (f"  {'':<10}{line}" for line in lines[1:])
    if found:
        counts = Counter(each.severity for each in found)
        yield f"  in all    {', '.join(f'{kind}: {count}' for kind, count in counts.items())}"


def _items(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield from (f"  {name:<20}{phrase}" for name, phrase in pairs)
