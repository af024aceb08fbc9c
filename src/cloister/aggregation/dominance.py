"""How much one contribution may differ from the others: none counts for more than the ``floor``-th largest.

    bound = min(clip, the floor-th largest of the norms);    scale_k = min(1, bound / norm_k)

A mean in which one member's update is far longer than all others is that member's update, whatever the floor says: so
it was with one row that the model did not fit. The norm is that of what gradients did to the parameters (decay is the
strategy's, once for all); buffers have a norm and a bound of their own.

``floor`` - 2 members that declare more than they send cannot lift the bound above the second largest of the others. It
blunts, and does not bound what a mean tells of one member: two rounds over almost the same members still differ by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def bound_of(norms: Iterable[float], *, floor: int, clip: float | None) -> float:
    """The most that the norm of a contribution counts for: of at least ``floor`` norms."""
    most = math.inf if clip is None else clip
    return min(most, sorted(norms, reverse=True)[floor - 1])


def scales_of(
    norms: Sequence[float], *, bounds: Sequence[float], regions: Sequence[Sequence[slice]]
) -> list[tuple[slice, float]]:
    """What each stretch of one contribution is scaled by, in the order of their places: by the norms of its parameters
    and of its buffers, and the bounds of those."""
    factors = [1.0 if norm <= bound else bound / norm for norm, bound in zip(norms, bounds, strict=True)]
    found = [(each, factor) for some, factor in zip(regions, factors, strict=True) for each in some]
    return sorted(found, key=lambda pair: pair[0].start)
