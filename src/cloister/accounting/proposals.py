"""Which noise keeps an epsilon: proposals to choose among, the least noise first.

There are many ways to one epsilon: all records in a few rounds, or a few of them in many, with the noise that it takes.
What training feels is the noise in a round's mean: ``multiplier / (rate * rows)``, for records clipped to length 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from cloister.accounting.accountant import Spent, epsilon
from cloister.errors import ConfigurationError

RATES: Final = (0.05, 0.1, 0.2, 0.5)
ROUNDS: Final = (50, 200, 1000)
LEAST: Final = 2.0
"""The least multiplier that is proposed: with less, attacks have told members from others (docs/privacy.md)."""
STEP: Final = 0.05
"""Multipliers differ by this."""
_STEPS: Final = 1 << 15


class Proposal(NamedTuple):
    """Noise that keeps an epsilon, and what it comes to."""

    multiplier: float
    rate: float
    rounds: int
    epsilon: float
    """Of all rounds; less than what was wanted where the least multiplier is enough."""
    noise: float
    """The deviation in each coordinate of a round's mean over the expected records, in clipping lengths."""


def plan_for(
    wanted: float,
    *,
    delta: float,
    rows: int,
    rates: Sequence[float] = RATES,
    rounds: Sequence[int] = ROUNDS,
    least_multiplier: float = LEAST,
) -> list[Proposal]:
    """The least multiplier that keeps the epsilon ``wanted``, for each of ``rates`` and ``rounds``.

    What has the least noise comes first. ``rows``: the records of all owners together. Multipliers are
    ``least_multiplier`` and so many times ``STEP`` more, found by bisection. Where it would take one over 1,600 or so,
    there is no proposal.

    Raises:
        ConfigurationError: numbers out of their bounds. MissingDependencyError: dp-accounting is not installed.
    """
    if not (math.isfinite(wanted) and wanted > 0):
        raise ConfigurationError(f"the wanted epsilon is {wanted}; it is a number over 0")
    settings = [(rate, count) for count in rounds for rate in rates]
    if min([rows, *(count for _, count in settings)]) < 1:
        raise ConfigurationError("noise is planned for at least one row and one round; say other numbers")
    found = (_least(wanted, Spent(least_multiplier, *each), delta=delta) for each in settings)
    return sorted(_proposals(found, delta=delta, rows=rows), key=lambda each: (each.noise, each.epsilon))


def _proposals(found: Iterable[Spent | None], *, delta: float, rows: int) -> Iterator[Proposal]:
    for each in found:
        if each is not None:
            noise = each.multiplier / (each.rate * rows)
            yield Proposal(each.multiplier, each.rate, each.rounds, epsilon([each], delta=delta), noise)


def _least(wanted: float, least: Spent, *, delta: float) -> Spent | None:
    """``least`` with the least multiplier, from its own on, that keeps ``wanted``."""

    def after(steps: int) -> Spent:
        return Spent(round(least.multiplier + steps * STEP, 10), least.rate, least.rounds)

    def keeps(steps: int) -> bool:
        return epsilon([after(steps)], delta=delta) <= wanted

    if keeps(0):
        return least
    low, high = 0, 8
    while not keeps(high):
        low, high = high, 2 * high
        if high > _STEPS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return after(high)
