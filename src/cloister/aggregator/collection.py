"""The collection of one round's contributions: in the order of names, a few at a time, each checked before it counts.

The order makes the bits of the sum independent of who was quicker. Only the owners whose turn it is are asked, so
memory is bounded by the sum (float64) and one or two contributions, however many members there are. A contribution that
has arrived is added when its memory is needed for the next one, which is on its way by then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice, takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.vectors import Travelled
from cloister.aggregator.bodies import Update
from cloister.aggregator.weighing import Answer, Weighing
from cloister.charter.charter import Limits
from cloister.errors import RoundError
from cloister.wire.layout import Layout, Regions

AT_ONCE: Final = 2
"""The most contributions on their way: one arrives while the other is added."""
SPARE_BYTES: Final = 56 << 20
"""Contributions come one at a time where two, and their members' connections, would take more than this. So an instance
holds at most three times a model in float32 and 64 MiB: the model, and the sum in float64, are the three."""
MEMBER_BYTES: Final = 1 << 18
"""A member's connection."""


class Collection:
    """Contributions to one round, by the names of the owners that are ready, which ``weighing`` adds up.

    Raises:
        RoundError: the owners are too few.
    """

    def __init__(
        self, answers: Mapping[str, Answer], *, limits: Limits, weighing: Weighing, layout: Layout, regions: Regions
    ) -> None:
        self.answers = {name: answers[name] for name in sorted(answers)}
        self._limits = limits
        self._weighing = weighing
        self._layout = layout
        self._regions = regions
        two = AT_ONCE * layout.length * weighing.dtype.itemsize + len(answers) * MEMBER_BYTES
        self._at_once = AT_ONCE if two <= SPARE_BYTES else 1
        self._asked: set[str] = set()
        self._arrived: dict[str, Update] = {}
        self._added = 0
        """The number of those that are in the sum: the first ones, in order."""
        self._free: list[Travelled] = []
        weighing.weigh(self.answers)
        weighing.begin()

    @property
    def weights(self) -> Mapping[str, float]:
        """How much each owner counts."""
        return self._weighing.weights

    @property
    def complete(self) -> bool:
        """Whether all contributions are here."""
        return self._added + len(self._arrived) == len(self.answers)

    def next(self) -> list[str]:
        """Chooses the owners to ask for their contributions now; they count as asked from then on."""
        window = self._window()
        found = [name for name in window if name not in self._asked and name not in self._arrived]
        found = found[: self._at_once - len(self._asked) - sum(name in self._arrived for name in window)]
        self._asked.update(found)
        return found

    def take_over(self, before: Collection) -> None:
        """Goes on waiting for what was asked of owners for another draft of the same round."""
        self._asked.update(before._asked & self.answers.keys())

    def expects(self, name: str) -> bool:
        """Whether this owner was asked, and its contribution has not come yet."""
        return name in self._asked

    def has(self, name: str) -> bool:
        """Whether this owner's contribution is here."""
        return name in self._arrived or name in islice(self.answers, self._added)

    def buffer(self, name: str, *, salt: bytes) -> Update:
        """Makes room for the contribution of an owner that was asked."""
        self._add()
        vector = self._free.pop() if self._free else np.empty(self._layout.length, self._weighing.dtype)
        return Update(vector, salt=salt, regions=self._regions)

    def take(self, name: str, update: Update) -> None:
        """Takes the contribution of an owner that was asked. If its turn has passed meanwhile, it is asked again.

        Raises:
            RoundError: it is refused. Nothing of it is added; ``leave_out`` has to follow.
        """
        self._asked.discard(name)
        answer = self.answers[name]
        try:
            self._weighing.check(answer, update)
            if update.commitment != answer.commitment:
                raise RoundError("the contribution is not the one that was committed to")
        except RoundError:
            self._free.append(update.release())
            raise
        if name in self._window():
            self._arrived[name] = update
        else:  # only those whose turn it is have memory
            self._free.append(update.release())

    def leave_out(self, name: str) -> None:
        """Goes on without this owner. If the weights of added contributions change by that, the sum begins anew.

        A vector of its that is still being filled is not used again.

        Raises:
            RoundError: the others are too few.
        """
        before = {each: self._weighing.how(each) for each in islice(self.answers, self._added)}
        del self.answers[name]
        self._asked.discard(name)
        if name in self._arrived:
            self._free.append(self._arrived.pop(name).release())
        self._weighing.weigh(self.answers)
        if any(self._weighing.how(each) != how for each, how in before.items()):
            self._weighing.begin()
            self._added = 0
        self._add()
        for each in [each for each in self._arrived if each not in self._window()]:
            self._free.append(self._arrived.pop(each).release())

    def mean(self) -> NDArray[np.float64]:
        """The mean, once all are here; only its memory is kept.

        Raises:
            AggregationError: it is not finite.
        """
        self._add()
        self._free.clear()
        return self._weighing.mean()

    def metrics(self) -> dict[str, float]:
        """The charter's metrics that all owners reported: each one's mean by the same weights, within its range."""
        told = {}
        for metric in self._limits.metrics:
            if all(metric.name in answer.metrics for answer in self.answers.values()):
                parts = (self.weights[name] * answer.metrics[metric.name] for name, answer in self.answers.items())
                mean = math.fsum(parts) / math.fsum(self.weights.values())
                told[metric.name] = min(max(mean, metric.low), metric.high)
        return told

    def _due(self) -> list[str]:
        """The next in order that have arrived. They are added before there is room for another."""
        return list(takewhile(self._arrived.__contains__, islice(self.answers, self._added, None)))

    def _window(self) -> list[str]:
        """The owners after those in order, whose contributions may arrive now."""
        first = self._added + len(self._due())
        return list(islice(self.answers, first, first + self._at_once))

    def _add(self) -> None:
        for name in self._due():
            update = self._arrived.pop(name)
            self._weighing.add(name, self.answers[name], update)
            self._added += 1
            self._free.append(update.release())
