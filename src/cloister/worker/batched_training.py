"""Local training of many owners at once: what ``training`` does for one, what each changes of its model stacked in one
tensor each. The rest of the model, a base that adapters are trained on, is there once for all.

All begin with the same values and have equally many rows, so that they take the same steps, each with its own rows in
the order that it has when it trains alone. What comes out is equal to that within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cloister.errors import PlanError
from cloister.tensor.plan.learned import changed
from cloister.tensor.plan.program import CLIPPED, UPDATE_NORM
from cloister.wire.layout import Half, Layout, regions_of
from cloister.wire.tensors import TensorSpec
from cloister.worker import flatten as deltas
from cloister.worker.data.batches import batches_in, whole_batches
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import Seeds
from cloister.worker.data.stacked import Stack
from cloister.worker.ending import Ending
from cloister.worker.fitting import check_numbers, check_tensors, check_whole
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Outcome, Plan
from cloister.worker.training import Norms, those

_COPIES: Final = 6
"""How many times over a training holds a model's values beside a step's: an optimizer's averages and its work."""


class TrainedTogether(NamedTuple):
    """What the trainings came to, in the owners' order: ``deltas`` of shape ``(owners, length)``, the ``norms`` of
    each, and ``metrics`` as a list each. ``others`` are each owner's where they began with buffers of their own, and
    the first one's alone where they did not."""

    deltas: Tensor
    norms: list[Norms]
    metrics: dict[str, list[float]]
    others: list[dict[str, Tensor]]


class TrainingTogether:
    """What ``Training`` is for one owner, for groups of owners that have ``rows`` rows each; the arguments are those of
    ``train``.

    ``bytes_each`` is what a group takes for each owner, in bytes, its rows included, and without what all share.

    Raises:
        ConfigurationError: as ``train``.
        PlanError: as ``train``, or the plan cannot be vectorised, or ``bytes_each`` would be more than
            ``memory_bytes``; the message says why.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        rows: int,
        memory_bytes: int,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        optimizer: Optimizer,
        batch_size: int,
        local_epochs: int | None,
        steps: int | None,
        proximal: float,
        clip: float | None,
        clip_buffers: float | None,
        half: Half | None,
        layout: Layout,
    ) -> None:
        check_numbers(batch_size, local_epochs, steps, proximal, clip, clip_buffers)
        check_tensors(plan, parameters, buffers)
        self._parameters, self._buffers, self._optimizer = parameters, buffers, optimizer
        if steps is not None:
            check_whole(rows, batch_size=batch_size)
        self._rows, self._batch_size, self._epochs, self._steps = rows, batch_size, local_epochs, steps
        self._proximal, self._ending, self._layout = proximal, Ending(clip, clip_buffers, half), layout
        self._regions = regions_of(layout, buffers=buffers)
        self._device = next(iter(parameters.values())).device
        self._changed = changed(plan.program)
        sizes = {batch_size} if steps is not None else {min(batch_size, rows), rows % batch_size} - {0}
        self._plans = {size: plan.vectorised(size, self._device, memory_bytes=memory_bytes) for size in sizes}
        row = sum(TensorSpec(each.dtype, each.row).nbytes() for each in plan.program.batch)
        values = sum(parameters[name].nbytes for name in self._changed.parameters)
        steps = max(each.bytes_each for each in self._plans.values())
        self.bytes_each: Final = steps + _COPIES * values + 2 * rows * row
        if self.bytes_each > memory_bytes:
            raise PlanError(f"a training takes {self.bytes_each:,} bytes for each model, more than {memory_bytes:,}")

    def run(
        self, owners: Sequence[Arrays], *, seeds: Sequence[Seeds], homes: Sequence[Mapping[str, Tensor]] = ()
    ) -> TrainedTogether:
        """Trains a group whose data sets fit the plan, each owner with its seeds. It begins with the values that the
        tensors given before have now; they stay as they are. ``homes``: for each owner, buffers that begin with these
        values in their place.

        Raises:
            PlanError: indices out of range, or an operation failed.
            TrainingError: training led to values that are not finite.
        """
        start = deltas.flatten(those(self._layout, self._parameters, self._buffers), layout=self._layout)
        trained = {
            name: nn.Parameter(_repeated(self._parameters[name], len(owners))) for name in self._changed.parameters
        }
        written = {name: self._begun(name, homes, len(owners)) for name in self._changed.buffers}
        update = self._optimizer.over(trained, stacked=True)
        seen = _Seen()
        for batch in self._batches(owners, seeds):
            plan = self._plans[batch[0].shape[1]]
            outcome = plan.run({**self._parameters, **trained}, {**self._buffers, **written}, batch)
            update.step(self._drawn_back(outcome.gradients, trained) if self._proximal else outcome.gradients)
            written = outcome.buffers
            seen.add(outcome, rows=batch[0].shape[1])
        changes = deltas.deltas(those(self._layout, trained, written), start=start, layout=self._layout)
        metrics = {**seen.means(), **self._before_clipping(changes)}
        changes = self._ending.of_each(changes, regions=self._regions, seeds=[each.rounding for each in seeds])
        found = [deltas.norms(changes, regions=each).tolist() for each in self._regions]
        norms = [Norms(*each) for each in zip(*found, strict=True)]
        in_vector = {place.name for place in self._layout.places}
        others = {name: each for name, each in written.items() if name not in in_vector}
        deltas.check_finite(others)
        apart = [{name: each[at].clone() for name, each in others.items()} for at in range(len(owners) if homes else 1)]
        return TrainedTogether(changes, norms, metrics, apart)

    def _begun(self, name: str, homes: Sequence[Mapping[str, Tensor]], owners: int) -> Tensor:
        """What a buffer of each owner begins with."""
        given = self._buffers[name]
        return torch.stack([each.get(name, given) for each in homes]) if homes else _repeated(given, owners)

    def _before_clipping(self, changes: Tensor) -> dict[str, list[float]]:
        norms, limit = deltas.norms(changes, regions=self._regions.parameters), self._ending.clip
        clipped = torch.zeros_like(norms) if limit is None else (~deltas.within(norms, limit)).double()
        return {CLIPPED: clipped.tolist(), UPDATE_NORM: norms.tolist()}

    def _batches(self, owners: Sequence[Arrays], seeds: Sequence[Seeds]) -> Iterator[tuple[Tensor, ...]]:
        stack, chosen, rows = Stack(owners, device=self._device), None, self._rows
        if self._steps is not None:
            chosen = np.stack([whole_batches(rows, batch_size=self._batch_size, seed=each.rows) for each in seeds])
            rows = chosen.shape[1]
        each = batches_in(rows, batch_size=self._batch_size)
        steps = each * self._epochs if self._epochs is not None else self._steps or 0
        for step in range(0, steps, each):
            batches = stack.epoch(self._batch_size, seeds=[each.steps for each in seeds], step=step, chosen=chosen)
            yield from islice(batches, steps - step)

    @torch.no_grad()
    def _drawn_back(self, gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: gradient + self._proximal * (parameters[name] - self._parameters[name])
            for name, gradient in gradients.items()
        }


class _Seen:
    """Losses and metrics, summed as they come and weighted by rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, outcome: Outcome, *, rows: int) -> None:
        self._rows += rows
        for name, value in {"loss": outcome.loss, **outcome.metrics}.items():
            weighted = value.double() * rows
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted

    def means(self) -> dict[str, list[float]]:
        return {name: (total / self._rows).tolist() for name, total in self._sums.items()}


def _repeated(tensor: Tensor, times: int) -> Tensor:
    return tensor.detach().expand(times, *tensor.shape).clone(memory_format=torch.contiguous_format)
