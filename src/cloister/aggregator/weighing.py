"""How the contributions to a round are added up: as a weighted mean, or in whole numbers with noise on their sum."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.dominance import bound_of, scales_of
from cloister.aggregation.mean import Sum, shares
from cloister.aggregation.noisy_sum import NoisySum, on_grid
from cloister.aggregator.bodies import Update
from cloister.charter.charter import Limits, Member
from cloister.charter.jobs import AgreedJob, Sampling
from cloister.errors import AggregationError, RoundError
from cloister.wire.fixed_point import SUM_TYPE, UNITS, most_drawn
from cloister.wire.halves import HELD_AS
from cloister.wire.layout import Half, Layout, Regions

_DOUBT: Final = 2.0**-30
"""By how much two norms of one vector may differ, relatively, that were added up in different orders."""


@dataclass(frozen=True)
class Answer:
    """An owner's answer when it had trained."""

    member: Member
    examples: int
    norms: tuple[float, float]
    """Of its parameters and its buffers, as it declared them."""
    metrics: Mapping[str, float]
    commitment: bytes


class Weighing(ABC):
    """The contributions of one round, added up. ``weigh`` comes first, and whenever an owner is lost."""

    def __init__(self, limits: Limits, layout: Layout, *, half: Half | None = None) -> None:
        self.weights: Mapping[str, float] = {}
        self.dtype: np.dtype[Any] = np.dtype(layout.dtype) if half is None else HELD_AS[half]
        """The element type of contributions."""
        self._limits = limits
        self._length = layout.length

    def weigh(self, answers: Mapping[str, Answer]) -> None:
        """Says how much each of these owners counts.

        Raises:
            RoundError: they are too few.
        """
        if len(answers) < self._limits.floor:
            left = "1 owner is" if len(answers) == 1 else f"{len(answers)} owners are"
            raise RoundError(f"{left} left in the round, and the floor is {self._limits.floor}")
        examples = {name: self._counted(answer) for name, answer in answers.items()}
        try:
            self.weights = shares(examples, largest_share=self._limits.largest_share)
        except AggregationError as fault:
            raise RoundError(str(fault)) from None

    def how(self, name: str) -> object:
        """How an owner counts now: where that changes, a sum that it is in has to begin anew."""
        return self.weights.get(name)

    @abstractmethod
    def check(self, answer: Answer, update: Update) -> None:
        """Checks a contribution by what its owner said of it. Raises ``RoundError``."""

    @abstractmethod
    def begin(self) -> None:
        """Begins an empty sum, in the place of the one before."""

    @abstractmethod
    def add(self, name: str, answer: Answer, update: Update) -> None:
        """Adds a contribution that was checked."""

    @abstractmethod
    def mean(self) -> NDArray[np.float64]:
        """What comes of the sum, in whose place it is. Raises ``AggregationError``: it is not finite."""

    def _counted(self, answer: Answer) -> int:
        return 1


class WeightedMean(Weighing):
    """The mean by the owners' weights; none counts for more than the floor-th largest
    (``cloister.aggregation.dominance``)."""

    def __init__(
        self, limits: Limits, layout: Layout, *, by_rows: bool, regions: Regions, half: Half | None = None
    ) -> None:
        super().__init__(limits, layout, half=half)
        self._by_rows = by_rows
        self._regions = regions
        self._scales: dict[str, list[tuple[slice, float]]] = {}
        self._sum = Sum(0)

    def weigh(self, answers: Mapping[str, Answer]) -> None:
        """As ``Weighing``'s, and by how much each contribution is scaled down."""
        super().weigh(answers)
        clips = (self._limits.clip, self._limits.clip_buffers)
        declared = zip(*(answer.norms for answer in answers.values()), strict=True)
        pairs = zip(declared, clips, strict=True)
        bounds = [bound_of(norms, floor=self._limits.floor, clip=clip) for norms, clip in pairs]
        self._scales = {
            name: scales_of(answer.norms, bounds=bounds, regions=self._regions) for name, answer in answers.items()
        }

    def how(self, name: str) -> object:
        """Its weight, and what it is scaled by."""
        return self.weights.get(name), self._scales.get(name)

    def check(self, answer: Answer, update: Update) -> None:
        """Its norms are at most those declared, and it changes something."""
        check_norms(answer, update)
        if not update.norms[0]:  # contributions of 0 hide nobody in the mean
            raise RoundError("the contribution changes nothing: its norm is 0")

    def begin(self) -> None:
        """As ``Weighing``'s."""
        self._sum = Sum(0)  # frees the old one's memory before there is another
        self._sum = Sum(self._length)

    def add(self, name: str, answer: Answer, update: Update) -> None:
        """Adds it, scaled, by its weight."""
        self._sum.add(
            update.vector,
            weight=self.weights[name],
            what=f"the contribution of {name}",
            norm=math.hypot(*update.norms),
            scales=self._scales[name],
        )

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean."""
        total, self._sum = self._sum, Sum(0)
        return total.mean()

    def _counted(self, answer: Answer) -> int:
        return answer.examples if self._by_rows else 1


class _Noisy(Weighing):
    """What both units of noise have. Nothing depends on another owner's contribution, and nothing on its length: a
    bound that did would tell of it."""

    def __init__(
        self, limits: Limits, layout: Layout, *, random: Callable[[int], bytes], half: Half | None = None
    ) -> None:
        super().__init__(limits, layout, half=half)
        self._random = random
        self._sum = NoisySum(0)

    def begin(self) -> None:
        """As ``Weighing``'s."""
        self._sum = NoisySum(0)
        self._sum = NoisySum(self._length)

    def _noisy(self, parts: float) -> NDArray[np.float64]:
        noise = self._limits.noise
        if noise is None:
            raise AggregationError("noise is asked for, and the charter has none")
        total, self._sum = self._sum, NoisySum(0)
        scale = self._limits.clip / UNITS / parts
        return total.mean(multiplier=noise.multiplier, scale=scale, random=self._random)


class NoisyOwners(_Noisy):
    """The mean of owners' updates, each of norm ``clip`` at most, with noise that hides one of them. Its deviation is
    the multiplier times the clip times the weight of one, as all weigh the same; whoever is in the cohort is public.

    McMahan, Ramage, Talwar, Zhang: "Learning Differentially Private Recurrent Language Models", ICLR 2018, section 3.
    """

    def check(self, answer: Answer, update: Update) -> None:
        """Its norm is at most that declared, which is at most the clip."""
        check_norms(answer, update)

    def how(self, name: str) -> object:
        """All count the same, however many they are."""
        return name in self.weights

    def add(self, name: str, answer: Answer, update: Update) -> None:
        """Adds it on the grid."""
        self._sum.add(on_grid(update.vector, clip=self._limits.clip))

    def mean(self) -> NDArray[np.float64]:
        """The noisy mean."""
        return self._noisy(len(self.weights))


class NoisyRecords(_Noisy):
    """The sum over owners' records of clipped gradients, with noise that hides one of them, as a step of the job's
    optimizer. Abadi et al.: "Deep Learning with Differential Privacy", CCS 2016, Algorithm 1.

    Contributions are sums over drawn records, on the grid, and point where the loss falls. Their owners declare
    nothing of them: how long one is would tell of its records.
    """

    def __init__(
        self, limits: Limits, layout: Layout, *, sampling: Sampling, lr: float, random: Callable[[int], bytes]
    ) -> None:
        super().__init__(limits, layout, random=random)
        self.dtype = np.dtype(SUM_TYPE)
        self._rows, self._lr = sampling.rows, lr

    def check(self, answer: Answer, update: Update) -> None:
        """It is not longer than the sum over all records that may be drawn. That no honest one is, whatever was drawn,
        so that it tells nothing; and nobody moves the model farther than all records together can."""
        if not update.norms[0] <= most_drawn(self._rows) * UNITS:
            raise RoundError("the contribution is longer than the sum over all records that may be drawn")

    def how(self, name: str) -> object:
        """All records count the same, whoever has them."""
        return name in self.weights

    def add(self, name: str, answer: Answer, update: Update) -> None:
        """Adds it as it is."""
        self._sum.add(update.vector)

    def mean(self) -> NDArray[np.float64]:
        """The noisy step."""
        return self._noisy(self._rows / self._lr)


def check_norms(answer: Answer, update: Update) -> None:
    """Checks that a contribution's norms are at most what its owner declared. Raises ``RoundError``."""
    for found, declared in zip(update.norms, answer.norms, strict=True):
        if not found <= declared * (1 + _DOUBT):
            raise RoundError("the contribution's norm is not a number of at most what its owner declared")


def weighing_of(
    agreed: AgreedJob, *, limits: Limits, layout: Layout, regions: Regions, random: Callable[[int], bytes]
) -> Weighing:
    """What adds up the contributions to a job's rounds."""
    if agreed.sampling is not None:
        return NoisyRecords(limits, layout, sampling=agreed.sampling, lr=agreed.optimizer.lr, random=random)
    if limits.noise is not None:
        return NoisyOwners(limits, layout, random=random, half=agreed.half)
    return WeightedMean(limits, layout, by_rows=agreed.weights == "rows", regions=regions, half=agreed.half)
