"""What a round's mean has to be: all contributions added up at once, in the order of names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.mean import Sum, shares
from cloister.aggregation.vectors import Vector
from cloister.wire.layout import Regions


class Contribution(NamedTuple):
    """What one member sends: its update, a flat vector, and the number of examples that it trained on."""

    update: Vector
    examples: int


class Level(NamedTuple):
    """What no contribution may count for more than: the ``floor``-th largest, its parameters and its buffers apart."""

    floor: int
    clips: tuple[float, float | None]
    regions: Regions

    def scaled(self, updates: Mapping[str, Vector]) -> dict[str, NDArray[np.float64]]:
        """The updates, each scaled down to that in both."""
        found = {name: each.astype(np.float64) for name, each in updates.items()}
        for clip, region in zip(self.clips, self.regions, strict=True):
            norms = {
                name: math.sqrt(math.fsum(float(value) ** 2 for part in region for value in each[part]))
                for name, each in updates.items()
            }
            bound = min([*([] if clip is None else [clip]), sorted(norms.values())[-self.floor]])
            for name, norm in norms.items():
                for part in region if norm > bound else ():
                    found[name][part] *= bound / norm
        return found


def mean(
    contributions: Mapping[str, Contribution], *, largest_share: float = 1.0, level: Level | None = None
) -> NDArray[np.float64]:
    """The mean of the members' updates, weighted by their examples, no member's share over ``largest_share``.

    It is the same to the last bit in whatever order the members are listed.

    Raises:
        AggregationError: no contributions, shares that are impossible, or a contribution that cannot be added.
    """
    weights = shares({name: each.examples for name, each in contributions.items()}, largest_share=largest_share)
    names = sorted(contributions)
    total = Sum(np.size(contributions[names[0]].update))
    updates = {name: each.update for name, each in contributions.items()}
    if level is not None:
        updates = level.scaled(updates)
    for name in names:
        total.add(updates[name], weight=weights[name], what=f"the contribution of {name}")
    return total.mean()
