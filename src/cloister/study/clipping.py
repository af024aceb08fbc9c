"""Whether updates are clipped, round after round: a model then moves by no more than ``clip`` in a round, whatever its
owners' data say, and may learn next to nothing without anything else that shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Final

from cloister.study.history import Round
from cloister.tensor.plan.program import CLIPPED, UPDATE_NORM

_log: Final = logging.getLogger(__name__)
_FEWEST: Final = 3
"""Rounds before anything is said: the updates of the first ones are the largest."""
_MEDIAN: Final = f"median_{UPDATE_NORM}"
_LARGEST: Final = f"largest_{UPDATE_NORM}"


def clipping_of(clipped: Sequence[float], norms: Sequence[float]) -> dict[str, float]:
    """``Round.clipping`` of a round in which each owner reported these."""
    if not norms:
        return {}
    return {CLIPPED: fmean(clipped), UPDATE_NORM: fmean(norms), _MEDIAN: median(norms), _LARGEST: max(norms)}


class ClippingWatch:
    """Warns once in a run, in the log, where more than half of the updates were clipped in most of the rounds so far.

    ``clip``: the bound that they are clipped to; ``remedy``: a sentence on what to do.
    """

    def __init__(self, clip: float | None, *, remedy: str) -> None:
        self._clip, self._remedy = clip, remedy
        self._warned = False

    def look(self, rounds: Sequence[Round]) -> None:
        """Looks at all rounds of a run so far. Those of a study that say nothing of clipping do not count."""
        numbers = [{**each.metrics, **each.clipping} for each in rounds]
        told = [each for each in numbers if CLIPPED in each]
        clipped = sum(each[CLIPPED] > 0.5 for each in told)
        if self._warned or self._clip is None or len(told) < _FEWEST or 2 * clipped <= len(told):
            return
        self._warned = True
        _log.warning(
            "more than half of the updates%s were clipped to %.3g in %d of %d rounds: the model may learn next to"
            " nothing; %s",
            _length(told[-1]),
            self._clip,
            clipped,
            len(told),
            self._remedy,
        )


def _length(numbers: Mapping[str, float]) -> str:
    for name, kind in ((_MEDIAN, "median"), (UPDATE_NORM, "mean")):
        if name in numbers:
            return f", whose {kind} norm was {numbers[name]:.3g} in the last round,"
    return ""
