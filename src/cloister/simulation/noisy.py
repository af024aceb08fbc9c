"""The mean of a round with noise, in a simulation: what owners and aggregator of a study compute, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.noisy_sum import NoisySum, on_grid
from cloister.aggregation.vectors import Vector
from cloister.charter.charter import Noise
from cloister.simulation.updates import Updates
from cloister.wire.fixed_point import UNITS
from cloister.worker.record_sums import Summed
from cloister.worker.training import Norms


def noise_from(seed: int, number: int) -> Callable[[int], bytes]:
    """The random bytes of the noise of a simulation's round: the same for the same seed, and so no secret."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number, 1)))).bytes


class NoisyUpdates(Updates):
    """Updates, or sums over drawn records, with noise on their mean. ``parts``: what their sum is divided by."""

    def __init__(
        self,
        length: int,
        weights: Mapping[str, float],
        *,
        noise: Noise,
        clip: float,
        parts: float,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(0, weights)
        self._sum: Final = NoisySum(length)
        self._noise, self._clip, self._parts, self._random = noise, clip, parts, random

    def mean(self) -> NDArray[np.float64]:
        """The noisy mean, once all are there."""
        scale = self._clip / UNITS / self._parts
        return self._sum.mean(multiplier=self._noise.multiplier, scale=scale, random=self._random)

    def add_sum(self, name: str, summed: Summed) -> None:
        """Adds the sum over one owner's drawn records."""
        self._sum.add(summed.sums.numpy())
        self.owners.append(name)

    def _add(self, names: Sequence[str], vectors: Vector, norms: Sequence[Norms]) -> None:
        for part in [on_grid(vector, clip=self._clip) for vector in vectors]:  # all of them, or none is added
            self._sum.add(part)
