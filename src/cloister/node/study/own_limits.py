"""The limits that an owner keeps under a charter: the charter's, or its own where those are stricter."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.charter.owner_limits import Floors
from cloister.errors import JobError


class OwnLimits:
    """The charter's limits, or the owner's where those are stricter."""

    def __init__(self, charter: Charter, *, floors: Floors | None) -> None:
        agreed, floors = charter.limits, floors or Floors()
        self.floor = max(agreed.floor, floors.floor or 0)
        self.min_examples = max(agreed.min_examples, floors.min_examples or 0)
        self.largest_share = min(agreed.largest_share, _or_any(floors.largest_share))
        self.min_batch = max(agreed.min_batch, floors.min_batch or 0)
        self.max_s = _or_any(floors.max_s)
        self.clip = min(agreed.clip, _or_any(floors.clip))
        self.clip_buffers = agreed.clip_buffers
        self._buckets = (agreed.min_examples, *agreed.row_buckets)
        self.rounds = agreed.rounds if floors.rounds is None else min(agreed.rounds, floors.rounds)
        self.rounds_by = "the charter's `rounds` allows" if self.rounds == agreed.rounds else "its owner's floors allow"
        self._ranges = {metric.name: (metric.low, metric.high) for metric in agreed.metrics}

    def check_job(self, job: AgreedJob) -> None:
        """Checks that a job of the charter keeps the owner's own limits too.

        Raises:
            JobError: it does not.
        """
        if job.sampling is None and job.batch_size < self.min_batch:
            raise JobError(
                f"the job's steps are of {job.batch_size} rows, and at least {self.min_batch} are asked for here"
            )
        if job.max_s > self.max_s:
            raise JobError(
                f"the job gives owners {job.max_s} s for a round, and at most {self.max_s:g} s are allowed here: its"
                " owner's floors (max_s) say so"
            )

    def told(self, examples: int) -> int:
        """What is told of so many rows: the greatest of the charter's buckets that is not above it."""
        return max(bucket for bucket in self._buckets if bucket <= examples)

    def released(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics among these that the charter names, clipped to its ranges."""
        return {
            name: min(max(value, self._ranges[name][0]), self._ranges[name][1])
            for name, value in metrics.items()
            if name in self._ranges and not math.isnan(value)
        }


def _or_any(limit: float | None) -> float:
    return math.inf if limit is None else limit
