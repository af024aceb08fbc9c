"""The updates of a round of a simulation, and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cloister.aggregation.dominance import bound_of, scales_of
from cloister.aggregation.group_mean import GroupSum
from cloister.aggregation.vectors import Vector
from cloister.wire.layout import Regions
from cloister.worker.batched_training import TrainedTogether
from cloister.worker.training import Norms, Trained


class Updates:
    """The results of a round's trainings: the running sum of the updates, the metrics of ``owners``, and the other
    buffers of the owner whose name is first. ``homes``: the buffers that stay with each owner, by its name.
    ``weights``: of each owner, by its name."""

    def __init__(self, length: int, weights: Mapping[str, float]) -> None:
        self.owners: list[str] = []
        self.metrics: dict[str, list[float]] = {}
        self.others: Mapping[str, Tensor] = {}
        self.homes: dict[str, Mapping[str, Tensor]] = {}
        self._weights = weights
        self._total = GroupSum(length)

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean, once all are there.

        Raises:
            AggregationError: it is not finite.
        """
        return self._total.mean()

    def add(self, name: str, trained: Trained) -> None:
        """Adds one owner's result."""
        self._add([name], trained.delta[None].numpy(), [trained.norms])
        self._note([name], {metric: [value] for metric, value in trained.metrics.items()}, [trained.others])

    def add_all(self, names: Sequence[str], trained: TrainedTogether) -> None:
        """Adds a group's results."""
        self._add(names, trained.deltas.numpy(), trained.norms)
        self._note(names, trained.metrics, trained.others)

    def _add(self, names: Sequence[str], vectors: Vector, norms: Sequence[Norms]) -> None:
        weights = [self._weights[name] for name in names]
        if len(names) == 1:
            self._total.add(vectors[0], weight=weights[0], what=f"the update of {names[0]}")
        else:
            self._total.add_all(vectors, weights=weights, what="the updates of a group")

    def _note(
        self, names: Sequence[str], metrics: Mapping[str, list[float]], others: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """``others``: of each owner, or of the first alone."""
        if names[0] == next(iter(self._weights)):
            self.others = {name: each for name, each in others[0].items() if not each.is_floating_point()}
        for name, held in zip(names, others, strict=False):
            self.homes[name] = {buffer: each for buffer, each in held.items() if each.is_floating_point()}
        self.owners += names
        for metric, values in metrics.items():
            self.metrics.setdefault(metric, []).extend(values)


class LevelledUpdates(Updates):
    """The same, none of which counts for more than the ``floor``-th largest (``cloister.aggregation.dominance``), as an
    aggregator has it. All are kept until they are there; they are added in the order of the owners' names."""

    def __init__(
        self,
        length: int,
        weights: Mapping[str, float],
        *,
        floor: int,
        clips: tuple[float | None, float | None],
        regions: Regions,
    ) -> None:
        super().__init__(length, weights)
        self._floor, self._clips, self._regions = floor, clips, regions
        self._kept: dict[str, tuple[Vector, Norms]] = {}

    def mean(self) -> NDArray[np.float64]:
        """The weighted mean of the updates, levelled."""
        declared = zip(*(norms for _, norms in self._kept.values()), strict=True)
        pairs = zip(declared, self._clips, strict=True)
        bounds = [bound_of(norms, floor=self._floor, clip=clip) for norms, clip in pairs]
        for name in sorted(self._kept):
            vector, norms = self._kept[name]
            scales = scales_of(norms, bounds=bounds, regions=self._regions)
            self._total.add(vector, weight=self._weights[name], what=f"the update of {name}", scales=scales)
        return super().mean()

    def _add(self, names: Sequence[str], vectors: Vector, norms: Sequence[Norms]) -> None:
        for name, vector, each in zip(names, vectors, norms, strict=True):
            self._kept[name] = vector.copy(), each
