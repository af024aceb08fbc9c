"""What a node's owner can know before the first round: which of its charters' jobs the node would take part in, and
what is left of its data sets' budgets.

Everything here is from files: node.toml, the charters, the headers of data sets, and the node's records.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from cloister.accounting.accountant import MOST_ROUNDS
from cloister.charter import Charter
from cloister.charter.jobs import FEWEST_BATCHES, AgreedJob
from cloister.charter.names import shown
from cloister.errors import ConfigurationError, JobError, RoundError
from cloister.ledger.noise import noise_of
from cloister.node.config import CharterUse, NodeConfiguration, StudyData
from cloister.node.data_files import inspect_columns
from cloister.node.study.base_files import BaseFiles
from cloister.node.study.budgets import Budget, budgets
from cloister.node.study.data_memory import MARK
from cloister.node.study.journal import FILE as RECORDS
from cloister.node.study.journal import Records
from cloister.node.study.own_limits import OwnLimits
from cloister.node.study.privacy import check_privacy
from cloister.node.study.studied_data import check_counted
from cloister.node.study.succeeded import remarks
from cloister.node.tags import data_set_of, trains_under

_MOST_TOLD: Final = 0.01
"""The most rows of a data set that its delta may be about, on average."""


class Outlook(NamedTuple):
    """``left``: of each data set's budget, under each charter, by the charter's name. ``faults``: a sentence for each
    job that this node would decline, for each data set that no job takes, and for what a charter before left open."""

    left: Sequence[tuple[str, Budget]]
    faults: Sequence[str]


def outlook(
    configuration: NodeConfiguration, charters: Sequence[Charter], *, own: str | None, models: BaseFiles
) -> Outlook:
    """``charters``: the configuration's. ``own``: the fingerprint of the node's identity. ``models``: its
    files of base models.

    Raises:
        ConfigurationError: the node could not mark a data set as its own, or not write down what it does.
        RecordsError: its records are damaged.
    """
    pairs = zip(configuration.charters, charters, strict=True)
    uses = [(use, charter) for use, charter in pairs if trains_under(charter, own)]
    if not uses:
        return Outlook((), ())
    state = uses[0][0].state
    _check_writable(configuration.study_data, state)
    # Without records, nothing was released; those of no folder are empty, and in memory.
    known = state if state is not None and (state / RECORDS).exists() else None
    left: list[tuple[str, Budget]] = []
    faults: list[str] = []
    with closing(Records(known, read_only=known is not None)) as records:
        for use, charter in uses:
            names = [data.name for data in configuration.study_data if _takes(charter, data)]
            found = budgets(records, names=names, charters=[(charter, use.floors)])
            left += [(charter.name, budget) for budget in found]
            faults += remarks(charter, records=records)
            faults += models.missing(charter)
            for job in charter.jobs:
                faults += _job(job, charter, use, configuration.study_data, records)
    faults += _untaken([charter for _, charter in uses], configuration.study_data)
    return Outlook(left, faults)


def _takes(charter: Charter, data: StudyData) -> bool:
    return any(job.data in data.tags for job in charter.jobs)


def _job(
    job: AgreedJob, charter: Charter, use: CharterUse, data: Sequence[StudyData], records: Records
) -> Iterator[str]:
    """Why the node would decline each round of a job."""
    name = f"job {shown(job.name)} of {shown(charter.name)}"
    limits = OwnLimits(charter, floors=use.floors)
    try:
        limits.check_job(job)
    except JobError as fault:
        yield f"{name}: {fault}"
    found = data_set_of(job, charter, data)
    if isinstance(found, str):
        yield found
        return
    yield from (f"{name}: {text}" for text in _rows(job, limits, found))
    yield from (f"{name}: {text}" for text in _privacy(job, charter, found, records))
    yield from (f"{name}: {text}" for text in _budget(job, charter, limits, use, found, records))
    try:
        if not found.unsafe_counted_otherwise:
            check_counted(found.name, job, records=records)
    except RoundError as fault:
        yield f"{name}: {fault}"


def _rows(job: AgreedJob, limits: OwnLimits, data: StudyData) -> Iterator[str]:
    spec = inspect_columns(data)[0]
    least = limits.min_examples
    if job.sampling is None:
        least = max(least, FEWEST_BATCHES * job.batch_size)
    elif spec is not None and spec.shape[0] * job.sampling.rate > job.sampling.rows:
        yield (
            f"of the {spec.shape[0]} rows of the data set {data.name!a} more would be drawn, at the rate"
            f" {job.sampling.rate:g}, than the {job.sampling.rows} that the job expects of all owners together"
        )
    if spec is not None and spec.shape[0] < least:
        why = (
            f"min_examples is {limits.min_examples}"
            if least == limits.min_examples
            else f"{FEWEST_BATCHES} batches of {job.batch_size}"
        )
        yield f"the data set {data.name!a} has {spec.shape[0]} rows, and at least {least} are wanted: {why}"


def _privacy(job: AgreedJob, charter: Charter, data: StudyData, records: Records) -> Iterator[str]:
    """Whether the data set's privacy budget allows all of a job's rounds, after those under other charters."""
    if data.budget is None:
        return
    spec = inspect_columns(data)[0]
    if spec is not None and data.budget.delta * spec.shape[0] > _MOST_TOLD:
        yield (
            f"delta = {data.budget.delta:g} is much for the {spec.shape[0]} rows of {data.name!a}: on average"
            f" {data.budget.delta * spec.shape[0]:.2g} of them might be told entirely, and it has to be far below 1 /"
            " its rows"
        )
    agreed = (each for each in records.consents(charter.digest) if not records.is_void(charter.digest, each.cohort))
    here = {each.round: each.noise for each in agreed if each.data == data.name}
    before = [*records.noises(data.name)]
    for noise in here.values():
        before.remove(noise)
    noise = noise_of(charter.limits, job)
    more = [noise] * min(job.rounds - 1, MOST_ROUNDS)  # with as many, none is left to be counted
    try:
        check_privacy(data.name, budget=data.budget, before=[*before, *more], noise=noise)
    except RoundError as fault:
        yield f"with all its {job.rounds} rounds, {fault}"


def _budget(
    job: AgreedJob, charter: Charter, limits: OwnLimits, use: CharterUse, data: StudyData, records: Records
) -> Iterator[str]:
    """Whether what other charters' rounds have left is enough for those of a job."""
    agreed = (each for each in records.consents(charter.digest) if not records.is_void(charter.digest, each.cohort))
    here = {each.round for each in agreed if each.data == data.name}
    before = max(0, records.spent(data.name) - len(here))
    if before + job.rounds > limits.rounds:
        own = use.floors is not None and use.floors.rounds == limits.rounds < charter.limits.rounds
        whose = "this node's floors allow" if own else f"`rounds` of {shown(charter.name)} allows"
        left = max(0, limits.rounds - before)
        yield (
            f"it has {job.rounds} rounds, and {data.name!a} has {left} left: it was in {before}"
            f" releases of other studies, and {whose} {limits.rounds} in all, those of earlier studies included"
        )


def _untaken(charters: Sequence[Charter], data: Sequence[StudyData]) -> Iterator[str]:
    names = ", ".join(shown(charter.name) for charter in charters)
    for each in data:
        if not any(_takes(charter, each) for charter in charters):
            yield f"no job of {names} wants the data set {each.name!a}"


def _check_writable(data: Sequence[StudyData], state: Path | None) -> None:
    """The first start writes a mark beside each file, and the node's memory."""
    for each in data:
        path = each.path.resolve()
        mark = path.with_name(path.name + MARK)
        if not (each.unsafe_unmarked or mark.exists() or os.access(path.parent, os.W_OK)):
            raise ConfigurationError(
                f"the data set {each.name!r} cannot be marked as this node's: {mark} is not there, and {path.parent}"
                " cannot be written. Let the node write there once, or say unsafe_unmarked = true"
            )
    if state is not None:
        there = next(each for each in (state, *state.parents) if each.exists())
        if not os.access(there, os.W_OK):
            raise ConfigurationError(f"the node's memory, {state}, cannot be written: {there} belongs to somebody else")
