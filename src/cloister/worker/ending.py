"""How a local training ends: its change is clipped, and rounded to the type in which it travels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cloister.errors import TrainingError
from cloister.wire.halves import SLACK, fits, rounded
from cloister.wire.layout import Half, Regions
from cloister.worker import flatten as deltas


class Ending(NamedTuple):
    """``clip``, ``clip_buffers``: the most that the L2 norms of a change's parameters and buffers may be. ``half``: the
    type of two bytes that values are rounded to, without bias (``cloister.wire.halves``); None: they are not."""

    clip: float | None
    clip_buffers: float | None
    half: Half | None

    def of(self, change: Tensor, *, regions: Regions, seed: int) -> Tensor:
        """What becomes of a change, in its own element type: itself, or a copy.

        Raises:
            TrainingError: a value beyond the half type's largest, or none that is finite.
        """
        for limit, some in self._limits(regions):
            change = change if limit is None else deltas.clip(change, limit=limit * self._part, regions=some)
        return change if self.half is None else self._rounded(change, self.half, regions, seed)

    def of_each(self, changes: Tensor, *, regions: Regions, seeds: Sequence[int]) -> Tensor:
        """``of`` for each row of ``changes``, each with its own seed.

        Raises:
            TrainingError: as ``of``.
        """
        for limit, some in self._limits(regions):
            changes = changes if limit is None else deltas.clip_each(changes, limit=limit * self._part, regions=some)
        if self.half is None:
            return changes
        pairs = zip(changes, seeds, strict=True)
        return torch.stack([self._rounded(change, self.half, regions, seed) for change, seed in pairs])

    @property
    def _part(self) -> float:
        return 1.0 if self.half is None else 1 - SLACK

    def _limits(self, regions: Regions) -> Sequence[tuple[float | None, tuple[slice, ...]]]:
        return [(self.clip, regions.parameters), (self.clip_buffers, regions.buffers)]

    def _rounded(self, change: Tensor, half: Half, regions: Regions, seed: int) -> Tensor:
        values = change.numpy()
        if not fits(values, to=half):
            raise TrainingError(
                f"training led to a change that {half} cannot hold; a clip, a lower learning rate, or another precision"
                " may help"
            )
        found = torch.from_numpy(rounded(values, to=half, seed=seed))
        for limit, some in self._limits(regions):
            if limit is not None and deltas.norm(found, regions=some) > limit:
                for each in some:
                    found[each] = torch.from_numpy(rounded(values[each], to=half, seed=None))
        return found
