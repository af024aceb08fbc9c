"""What an owner holds a study to: the charter's limits, or its own floors where those are stricter."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cloister.charter import Charter
from cloister.charter.owner_limits import Floors


class OwnLimits:
    """The charter's limits, or the owner's where those are stricter."""

    def __init__(self, charter: Charter, *, floors: Floors | None) -> None:
        agreed, floors = charter.limits, floors or Floors()
        self.floor = max(agreed.floor, floors.floor or 0)
        self.min_examples = max(agreed.min_examples, floors.min_examples or 0)
        self.largest_share = min(agreed.largest_share, _or_any(floors.largest_share))
        self.clip = min(agreed.clip, _or_any(floors.clip))
        self.rounds = agreed.rounds if floors.rounds is None else min(agreed.rounds, floors.rounds)
        self._ranges = {metric.name: (metric.low, metric.high) for metric in agreed.metrics}

    def released(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of these metrics, those that the charter names, within its ranges."""
        return {
            name: min(max(value, self._ranges[name][0]), self._ranges[name][1])
            for name, value in metrics.items()
            if name in self._ranges and not math.isnan(value)
        }


def _or_any(limit: float | None) -> float:
    return math.inf if limit is None else limit
