"""Which of a node's data sets a charter's jobs take: told before the first round, where a tag is mistyped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.charter.names import shown
from cloister.errors import meant
from cloister.node.config import StudyData

_LISTED: Final = 5
"""Tags that a message repeats."""


def trains_under(charter: Charter, own: str | None) -> bool:
    """Whether a charter has rounds in which the holder of the key ``own`` (a fingerprint) trains."""
    member = None if own is None else charter.member(own)
    return not charter.interactive and member is not None and member.role == "owner"


def data_set_of(job: AgreedJob, charter: Charter, data: Sequence[StudyData]) -> StudyData | str:
    """The one data set that a job takes, or a sentence that says why there is none."""
    found = [each for each in data if job.data in each.tags]
    if len(found) == 1:
        return found[0]
    wants = f"job {shown(job.name)} of {shown(charter.name)} wants a data set with the tag {job.data!a}, and"
    if found:
        return f"{wants} {len(found)} have it here: a round takes one, so give the tag to one of them"
    tags = sorted({tag for each in data for tag in each.tags})
    there = ", ".join(f"{tag!a}" for tag in tags[:_LISTED]) if tags else "no data set with columns"
    return f"{wants} none here has it; there is {there}{meant(job.data, tags)}"


def untagged(charter: Charter, data: Sequence[StudyData]) -> Iterator[str]:
    """A sentence for each job that takes none of these data sets."""
    found = (data_set_of(job, charter, data) for job in charter.jobs)
    yield from (each for each in found if isinstance(each, str))
