"""The gradients of a plan's loss on single records, each computed as if it were the only one.

The plan is made ready for batches of one row, so that no operation of it ever sees two records. Where it can be
vectorised, many records are computed at a time, each as a model with a batch of its own; the models are all the same
one. Where it cannot, one comes after the other.

A record that the plan cannot be run on (a label that is out of range, say) is no error here, because an error would
tell of one record: its gradient is not a number. And it changes no bit of the others'. Indices out of range are seen
beforehand, and take no time. What else fails is found by halving: those that do not fail are then computed again, each
in a batch as large as before and at the place that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from cloister.errors import PlanError
from cloister.tensor.plan.learned import changed
from cloister.worker.plans import Plan

_COPIES: Final = 4
"""How many float64 values there is room for, beside a step's, for each value of a gradient: for the matrix, and for
what whoever asked for it makes of it."""


class RecordGradients:
    """Makes a plan ready to compute records one by one; the values of the tensors given here are those that count.

    ``names`` are the parameters whose gradients are wanted, in the order in which they lie end to end. ``at_once`` is
    how many records are computed at a time, at most as many as were asked for and as ``memory_bytes`` has room for;
    ``replayed`` is the reason why they are computed one after the other, and empty where they are not.

    Raises:
        PlanError: a batch of one row does not fit the plan or takes more than ``memory_bytes``, or a step writes
            buffers.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        names: Sequence[str],
        at_once: int,
        memory_bytes: int,
    ) -> None:
        _refuse_writes(plan)
        self._plan, self._names, self._changed = plan, names, changed(plan.program).parameters
        self._parameters = {name: each.detach() for name, each in parameters.items()}
        self._buffers = {name: each.detach() for name, each in buffers.items()}
        self.device: Final = next(iter(parameters.values())).device
        doubles = any(parameters[name].dtype == torch.float64 for name in names)
        self._dtype = torch.float64 if doubles else torch.float32  # as a model's vector has it: every value is exact
        self.length: Final = sum(parameters[name].numel() for name in names)
        each = _peak(plan, self.device) + _COPIES * 8 * self.length
        if each > memory_bytes:
            raise PlanError(f"one record takes {each:,} bytes of memory, more than {memory_bytes:,}; allow more")
        self.at_once: Final = min(at_once, memory_bytes // each)
        self.replayed = ""
        try:
            self._together = plan.vectorised(1, self.device, memory_bytes=memory_bytes)
        except PlanError as fault:
            self.replayed = str(fault)

    def of(self, batch: Sequence[Tensor], *, seed: int, first: int) -> Tensor:
        """The gradients of the records in a batch: a matrix of shape ``(records, length)``, float64 if a parameter
        is and else float32, of which a row is NaN where the plan could not be run.

        ``seed`` and the record's number, counted from ``first``, decide what is random in its computation.
        """
        records = len(batch[0])
        if self.replayed:
            return torch.stack([self._alone(batch, at, seed, first + at) for at in range(records)])
        return self._some(batch, 0, records)

    def _alone(self, batch: Sequence[Tensor], at: int, seed: int, number: int) -> Tensor:
        row = [each[at : at + 1] for each in batch]
        try:
            found = self._plan.step(self._parameters, self._buffers, row, seed=seed, step=number).gradients
        except PlanError:
            return self._nothing()
        return torch.cat([found[name].flatten().to(self._dtype) for name in self._names])

    def _all(self, batch: Sequence[Tensor]) -> Tensor:
        """All records at once: one model's tensors stand for those of as many models, without copies."""
        records = len(batch[0])
        trained = {
            name: self._parameters[name].expand(records, *self._parameters[name].shape) for name in self._changed
        }
        unfit = self._together.unfit(batch)
        fit = [each.masked_fill(unfit.view(-1, *[1] * (each.dim() - 1)), 0).unsqueeze(1) for each in batch]
        found = self._together.run({**self._parameters, **trained}, self._buffers, fit).gradients
        gradients = torch.cat([found[name].flatten(1).to(self._dtype) for name in self._names], 1)
        return gradients.masked_fill_(unfit[:, None], torch.nan)

    def _some(self, batch: Sequence[Tensor], first: int, last: int) -> Tensor:
        """The records from ``first`` to ``last`` at their places in a batch, in which the first one of them stands for
        all others: those that fail are halved until they are alone."""
        places = torch.arange(len(batch[0]), device=batch[0].device)
        places[:first] = places[last:] = first
        try:
            return self._all([each[places] for each in batch])[first:last]
        except PlanError:
            if last - first == 1:
                return self._nothing()[None]
        middle = (first + last) // 2
        return torch.cat([self._some(batch, first, middle), self._some(batch, middle, last)])

    def _nothing(self) -> Tensor:
        return torch.full((self.length,), torch.nan, dtype=self._dtype, device=self.device)


def _refuse_writes(plan: Plan) -> None:
    pairs = zip(plan.program.buffers, plan.program.updates, strict=True)
    written = [buffer.names[0] for buffer, update in pairs if update is not None]
    if written:
        layer = written[0].rpartition(".")[0]
        raise PlanError(
            f"{f'the layer {layer!r}' if layer else 'the model'} writes the buffer {written[0]!r} in each step, and "
            "clipping bounds no record's part in it; put GroupNorm in the place of BatchNorm"
        )


def _peak(plan: Plan, device: torch.device) -> int:
    try:
        return plan.replay(1, device).peak
    except PlanError as fault:
        raise PlanError(
            f"each record's gradient is computed alone, and the plan cannot be run on one row ({fault}); have the loss "
            "be a mean over rows, without layers or terms that need several"
        ) from None
