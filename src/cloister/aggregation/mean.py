"""The weighted mean of contributions (McMahan et al. 2017, Algorithm 1), with a limit on one member's share.

    mean = sum over k of (w_k * u_k) / sum over k of w_k

McMahan, Moore, Ramage, Hampson, Aguera y Arcas: "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017; its w_k is n_k, the member's number of examples.

Sums are kept in float64. Floating-point addition depends on the order, so where the bits must not depend on who was
quicker, the caller adds in the order of the members' names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.vectors import BLOCK, Travelled, blocks, check
from cloister.errors import AggregationError
from cloister.wire.halves import widened


class Sum:
    """A running weighted sum: one float64 vector of ``length``, however many contributions are added to it."""

    def __init__(self, length: int) -> None:
        self._sum: NDArray[np.float64] = np.zeros(length)
        self._weights: list[float] = []

    def __len__(self) -> int:
        """The number of contributions that were added."""
        return len(self._weights)

    def add(
        self,
        update: Travelled,
        *,
        weight: float,
        what: str = "a contribution",
        norm: float | None = None,
        scales: Sequence[tuple[slice, float]] = (),
    ) -> None:
        """Adds ``weight * update``; nothing is added if it is refused. ``what`` names it in messages. ``norm``: the
        update's norm, if it is known: if it is finite, so are all values, and they are not checked again. ``scales``:
        regions that make up all of it, each with what it is scaled by before; none is scaled where there are none.

        Raises:
            AggregationError: a weight that is not positive and finite, another length than the sum's, or a value that
                is NaN or infinite.
        """
        if not (math.isfinite(weight) and weight > 0):
            raise AggregationError(f"{what} has the weight {weight}; a weight is a positive number")
        check(update, length=len(self._sum), what=what, finite=norm is not None and math.isfinite(norm), halves=True)
        terms = np.empty(min(BLOCK, len(update)))
        with np.errstate(over="ignore", invalid="ignore"):  # mean() finds what became of an overflow
            for region, scale in scales or [(slice(0, len(update)), 1.0)]:
                part, total = update[region], self._sum[region]
                for block in blocks(len(part)):
                    values = widened(part[block])
                    term = terms[: len(values)]
                    term[:] = values  # a conversion on its own is quicker than one within a multiplication
                    term *= weight * scale
                    total[block] += term
        self._weights.append(weight)

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean of what was added. It takes the sum's place in memory: the sum is empty after it.

        Raises:
            AggregationError: nothing was added, or the sum is not finite.
        """
        if not self._weights:
            raise AggregationError("there are no contributions, and so there is no mean of them")
        mean, weights = self._sum, self._weights
        self._sum, self._weights = np.zeros(len(mean)), []
        whole = math.fsum(weights)
        for block in blocks(len(mean)):
            part = mean[block]
            part /= whole
            check(part, length=len(part), what="the mean of the contributions")
        return mean


def shares(examples: Mapping[str, int], *, largest_share: float = 1.0) -> dict[str, float]:
    """Each member's share of the mean: in proportion to its examples, but never more than ``largest_share``.

    A share over the limit is set to it, and the rest is given to the others in proportion to their examples; if that
    lifts another one over the limit, this is repeated until none is over it. The shares add up to 1 (within rounding),
    and more examples never mean a smaller share. All is computed in whole numbers, so equal examples give equal shares.

    Raises:
        AggregationError: no members, a member without examples, or fewer members than the limit needs (1 / limit).
    """
    if not examples:
        raise AggregationError("there are no contributions, and so there are no shares")
    for name, count in examples.items():
        if type(count) is not int or count < 1:
            raise AggregationError(f"{name} counts {count!r} examples; a contribution has at least one")
    if not 0 < largest_share <= 1:
        raise AggregationError(f"the largest share is {largest_share}; it is more than 0 and at most 1")
    if 1 / len(examples) > largest_share:
        raise AggregationError(
            f"{len(examples)} contributions cannot each be at most {largest_share} of the mean: "
            f"that takes {math.ceil(1 / largest_share)}"
        )
    return _cap(examples, Fraction(largest_share))


def _cap(examples: Mapping[str, int], limit: Fraction) -> dict[str, float]:
    # From the largest down: once one is within the limit, so are all that follow it.
    left, mass = sum(examples.values()), Fraction(1)
    capped = {}
    for name in sorted(examples, key=lambda name: -examples[name]):
        if examples[name] * mass <= limit * left:
            break
        capped[name] = float(limit)
        left -= examples[name]
        mass -= limit
    scale = mass / left if left else Fraction(0)
    # A fraction is rounded to the nearest float, and the limit is one, so rounding lifts none over it.
    rounded = {count: float(count * scale) for count in set(examples.values())}
    return {name: capped[name] if name in capped else rounded[count] for name, count in examples.items()}
