"""Rules between the values of a charter, each in one place: whoever reads one, from whatever form, keeps to these.

What a single value may be its type says (``cloister.charter.charter``). Each function here tells faults, with the place
of each as it is called in charter.toml.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeAlias

from cloister.attest.reference import Reference
from cloister.charter.charter import BASES, MEMBERS, Base, Limits, Member, Metric
from cloister.charter.job_bounds import faults, rows_that_count
from cloister.charter.jobs import JOBS, AgreedJob
from cloister.errors import ConfigurationError
from cloister.models.recipe import Drawn
from cloister.wire.peers import parse_address

ADDRESSES: Final = 64
METRICS: Final = 64

Faults: TypeAlias = Iterator[tuple[str, str]]


def line(serial: int, supersedes: bytes | None) -> Faults:
    """The place in the line of charters of one name."""
    if serial == 1 and supersedes is not None:
        yield "supersedes", "the first charter (serial 1) supersedes none: leave it out"
    if serial > 1 and supersedes is None:
        yield "supersedes", "is missing; it is the digest of the charter before this one"


def validity(not_before: datetime, not_after: datetime) -> Faults:
    """The time for which it holds."""
    if not_before >= not_after:
        yield "not_after", "is not later than not_before: the charter would never be valid"


def members(found: Sequence[Member]) -> Faults:
    """One organisation is one member."""
    if not 1 <= len(found) <= MEMBERS:
        yield "members", f"there must be 1 to {MEMBERS} members, [[members]]"
    names: set[str] = set()
    keys: set[str] = set()
    ids: set[str] = set()
    others = {member.key: member.id for member in found}
    for index, member in enumerate(found):
        if member.name.casefold() in names:
            yield f"members[{index}].name", "another member has this name; one organisation is one member"
        if member.key in keys:
            yield f"members[{index}].key", "another member has this key; one organisation has one key, and one role"
        if member.id and (member.id in ids or others.get(member.id, member.id) != member.id):
            yield f"members[{index}].id", "is another member's; it is the fingerprint of this member's first key"
        ids.add(member.id)
        names.add(member.name.casefold())
        keys.add(member.key)


def is_address(text: str) -> bool:
    """Whether an aggregator can be dialled there."""
    try:
        return text.isprintable() and parse_address(text).port > 0
    except ConfigurationError:
        return False


def addresses(found: Sequence[str]) -> Faults:
    """Where aggregators may be."""
    if not 1 <= len(found) <= ADDRESSES:
        yield "aggregator.addresses", f"there must be 1 to {ADDRESSES} addresses"


def software(found: Reference) -> Faults:
    """Which software they may be."""
    if not found:
        yield "software", "is missing; name the software that may see contributions, [[software]]"
    if len({entry.tee == "simulated" for entry in found}) > 1:
        yield "software", "a simulated TEE proves nothing, and stands beside no real one: make a charter of its own"


def limits(found: Limits, *, owners: int) -> Faults:
    """What may leave the aggregator."""
    if found.floor > owners:
        yield "limits.floor", f"{found.floor} members are never together: the charter has {owners} owner(s)"
    if found.floor * found.largest_share < 1.0:
        least = 1.0 / found.floor
        yield (
            "limits.largest_share",
            f"{found.floor} members cannot have all the weight unless it is at least {least:g}",
        )
    if found.noise is not None:
        yield from _noisy(found)
    if found.home_buffers and found.clip_buffers is not None:
        yield "limits.clip_buffers", "is not for buffers that stay at home (home_buffers): leave one of the two out"
    if list(found.row_buckets) != sorted(set(found.row_buckets)) or found.min_examples in found.row_buckets:
        yield "limits.row_buckets", "are whole numbers above min_examples, each once, the least first"
    elif found.row_buckets and found.row_buckets[0] < found.min_examples:
        yield "limits.row_buckets", f"begin above min_examples, {found.min_examples}, which is the first of them"


def _noisy(found: Limits) -> Faults:
    """Noise is on the parameters, so nothing else may be told of the rows that it hides."""
    if found.interactive:
        yield "limits.interactive", "is true, and there is noise: operations one by one are released without. Say false"
    if found.clip_buffers is not None:
        yield (
            "limits.clip_buffers",
            "is not for a charter with noise, which is on the parameters alone: leave it out, and have GroupNorm or"
            " LayerNorm in the place of BatchNorm; where noise hides owners, home_buffers = true will do too",
        )
    if found.row_buckets:
        yield (
            "limits.row_buckets",
            "are not for a charter with noise: numbers of rows are told to nobody. Leave them out",
        )
    if found.metrics:
        yield "limits.metrics[0].name", "is not for a charter with noise: metrics stay home, as they would have none"


def bases(found: Sequence[Base]) -> Faults:
    """The files that models are made of, beside what is learned."""
    if len(found) > BASES:
        yield "bases", f"there may be at most {BASES}"
    names: set[str] = set()
    files: set[bytes] = set()
    for index, base in enumerate(found):
        if base.name in names:
            yield f"bases[{index}].name", "another base has this name"
        if files & {*base.files} or len({*base.files}) < len(base.files):
            yield f"bases[{index}].files", "name a file twice, or one of another base"
        names.add(base.name)
        files |= {*base.files}


def metrics(found: Sequence[Metric]) -> Faults:
    """The numbers that may be released beside a model."""
    names: set[str] = set()
    for index, metric in enumerate(found):
        if metric.low >= metric.high:
            yield f"limits.metrics[{index}].high", "must be above low"
        if metric.name in names:
            yield f"limits.metrics[{index}].name", "another metric has this name"
        if index == METRICS:
            yield f"limits.metrics[{index}].name", f"one metric too many: there may be {METRICS}"
        names.add(metric.name)


def first_model(recipe: Sequence[Drawn], *, limits: Limits) -> Faults:
    """Where the first model comes from."""
    if recipe and limits.first_model_file is not None:
        yield "first_model", "is drawn by a recipe or published as a file, and not both"
    if limits.first_model is None and (recipe or limits.first_model_file is not None):
        yield "limits.first_model", "is missing; it is the SHA-256 of the model that comes of the recipe or file"


def jobs(found: Sequence[AgreedJob], *, limits: Limits) -> Faults:
    """What may be computed in rounds."""
    if found and limits.first_model is None:
        yield "limits.first_model", "is missing; it is the SHA-256 of the model that the first round starts from"
    if found and limits.interactive:
        yield (
            "limits.interactive",
            "is true, and there are jobs: they run in rounds, of which there are none then, and what they promise is"
            " not kept. Say interactive = false, or leave the jobs out",
        )
    if len(found) > JOBS:
        yield "jobs", f"there may be at most {JOBS}"
    names: set[str] = set()
    batches: dict[str, int] = {}
    first: dict[str, AgreedJob] = {}
    for index, job in enumerate(found):
        place = f"jobs[{index}]"
        if job.name in names:
            yield f"{place}.name", "another job has this name"
        names.add(job.name)
        yield from ((f"{place}.{key}", text) for key, text in (*faults(job), *needless_reason(job)))
        yield from ((f"{place}.{key}", text) for key, text in _sampled_as_noise_asks(job, limits))
        if job.sampling is None:
            yield from ((f"{place}.{key}", text) for key, text in _few_rows(job, limits))
        if batches.setdefault(job.data, job.batch_size) != job.batch_size:
            yield (
                f"{place}.batch_size",
                f"is {job.batch_size}, and {batches[job.data]} in another job on the same data: an owner with rows for"
                " one of them alone would be what two means differ by",
            )
        yield from ((f"{place}.{key}", text) for key, text in _counted_alike(job, first.setdefault(job.data, job)))
        if job.rounds > limits.rounds:
            yield f"{place}.rounds", f"is {job.rounds}, and must be at most the charter's {limits.rounds} in all"
        if job.weights == "rows" and not limits.row_buckets:
            yield f"{place}.weights", "by rows need row_buckets in [limits]: exact numbers of rows are told to nobody"


def needless_reason(job: AgreedJob) -> Faults:
    """A reason for a learning rate that needs none would be a warning about nothing."""
    if job.unsafe_lr is not None and [*faults(job)] == [*faults(replace(job, unsafe_lr=None))]:
        yield "unsafe_lr", "gives a reason for another learning rate, and lr is within its bounds: leave out unsafe_lr"


def _sampled_as_noise_asks(job: AgreedJob, limits: Limits) -> Faults:
    if limits.hides == "record":
        if job.sampling is None:
            yield (
                "sampling",
                "is missing: noise that hides one record is for rows that are drawn, { rate = ..., rows = ... }",
            )
    elif job.sampling is not None:
        yield "sampling", 'is for a charter whose noise hides one record (unit = "record"): leave it out'
    if limits.hides and job.weights != "uniform":
        yield "weights", "is rows, and must be uniform with noise: numbers of rows are told to nobody"


def _few_rows(job: AgreedJob, limits: Limits) -> Faults:
    if job.batch_size < limits.min_batch:
        yield "batch_size", f"is {job.batch_size}, and must be at least min_batch, {limits.min_batch}"
    if not any(faults(job)) and (rows := rows_that_count(job)) < limits.min_rows:
        yield (
            "steps",
            f"are {job.steps}, in which {rows:.0f} rows of an owner count, and at least min_rows, {limits.min_rows},"
            " must: take more steps, or numbers with which they count alike",
        )


def _counted_alike(job: AgreedJob, other: AgreedJob) -> Faults:
    """Owners count for as much in all jobs on the same data: else two means are two sums of the same contributions, and
    what they differ by is that of an owner that counts for more in one of them."""
    if job.weights != other.weights:
        yield (
            "weights",
            f"is {job.weights}, and {other.weights} in another job on the same data: an owner that counts for more in"
            " one of them would be what two means differ by",
        )
    if job.optimizer.clip_norm != other.optimizer.clip_norm:
        yield (
            "optimizer",
            "clip_norm differs from that of another job on the same data: with one all owners' contributions are about"
            " as long, and an owner with a shorter one would be what two means differ by",
        )
