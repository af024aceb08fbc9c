"""What a round's mean has to be: all contributions added up at once, in the order of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.mean import Sum, shares
from cloister.aggregation.vectors import Vector


class Contribution(NamedTuple):
    """What one member sends: its update, a flat vector, and the number of examples that it trained on."""

    update: Vector
    examples: int


def mean(contributions: Mapping[str, Contribution], *, largest_share: float = 1.0) -> NDArray[np.float64]:
    """The mean of the members' updates, weighted by their examples, no member's share over ``largest_share``.

    It is the same to the last bit in whatever order the members are listed.

    Raises:
        AggregationError: no contributions, shares that are impossible, or a contribution that cannot be added.
    """
    weights = shares({name: each.examples for name, each in contributions.items()}, largest_share=largest_share)
    names = sorted(contributions)
    total = Sum(np.size(contributions[names[0]].update))
    for name in names:
        total.add(contributions[name].update, weight=weights[name], what=f"the contribution of {name}")
    return total.mean()
