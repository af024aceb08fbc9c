"""Local training: a plan replayed over one owner's data set, and what came out of it as one vector.

A training is a function of its arguments alone: the same plan, data set, tensors, numbers and seed give the same bits
on the same machine with as many threads. The seed decides the order of the rows in each epoch and, through the plan,
all random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from cloister.errors import ConfigurationError, PlanError
from cloister.tensor.geometry import DTYPES
from cloister.tensor.plan.program import Buffer, Parameter
from cloister.wire.layout import Layout
from cloister.wire.tensors import TensorSpec
from cloister.worker import delta as deltas
from cloister.worker.data.batches import Batches, Column, batches_in, check_batch_size, check_schema
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Outcome, Plan

_KEPT_APART: Final = 1024
"""So many losses are single tensors at a time; those before them are together in one."""


class Trained(NamedTuple):
    """What a local training came to.

    ``delta`` is the trained model minus the one it began with, a flat vector in the order of ``wire.layout``;
    ``examples`` the number of the data set's rows; ``metrics`` the means over all that was trained on, each step
    weighted by its rows, with ``"loss"`` among them; ``losses`` the loss of each step. ``others`` are the buffers that
    are no part of the vector, as the last step left them: counters, in most models.
    """

    delta: Tensor
    examples: int
    metrics: dict[str, float]
    losses: tuple[float, ...]
    others: dict[str, Tensor]


class Seen(NamedTuple):
    """What a training in place reports; ``losses`` is a float64 tensor on the CPU. The rest as in ``Trained``."""

    metrics: dict[str, float]
    losses: Tensor


def floats_in(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The floating-point tensors among these, by name: what a delta holds where no layout is given."""
    return {name: each for name, each in {**parameters, **buffers}.items() if each.is_floating_point()}


def check_fits(plan: Plan, data: Batches, *, batch_size: int | None = None) -> None:
    """Whether a plan can be trained on a data set; with a ``batch_size``, also if that leaves a last batch of one row.

    Raises:
        DataSetError: it cannot; the message names the columns.
        PlanError: it cannot be trained on one row, which is left.
    """
    rows = plan.program.batch
    expected = [Column(f"batch[{at}]", TensorSpec(each.dtype, each.row)) for at, each in enumerate(rows)]
    check_schema(data.schema, expected=expected)
    if batch_size is not None:
        check_batch_size(batch_size)
        if len(data) % batch_size == 1:
            prepare(plan, rows=len(data), batch_size=batch_size, device=torch.device("cpu"))


def train(
    plan: Plan,
    data: Batches,
    *,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    optimizer: Optimizer,
    batch_size: int,
    local_epochs: int,
    seed: int,
    proximal: float = 0.0,
    clip: float | None = None,
    layout: Layout | None = None,
) -> Trained:
    """Trains a model on a data set: ``local_epochs`` times over all rows, the last batch of each smaller if need be.

    It is computed on the device of the parameters. They and the buffers stay as they are. The optimizer, its schedule
    included, begins anew.

    Args:
        parameters, buffers: by name, as ``dict(model.named_parameters())`` gives them.
        seed: 0 to 2^64 - 1. Epochs and steps are numbered from 0 and counted on through all epochs.
        proximal: the mu of FedProx (Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020,
            equation 2): ``mu / 2 * ||w - w_start||^2`` is added to the loss, and so ``mu * (w - w_start)`` to the
            gradients. The losses that are reported are without it.
        clip: the most that the L2 norm of the delta may be; a larger one is scaled down to it.
        layout: which tensors the delta holds, and where; all of floating point if it is None.

    Raises:
        ConfigurationError: numbers out of range, tensors that are not those of ``layout``, or no parameters.
        DataSetError: the data set does not fit the plan; before the first step. Or a file turns out to be damaged.
        PlanError: the tensors do not fit the plan, or an operation failed on their values.
        TrainingError: training led to values that are not finite.
    """
    _check_numbers(local_epochs, clip)
    if layout is None:
        layout = deltas.layout_of(floats_in(parameters, buffers))
    start = deltas.flatten(_those(layout, parameters, buffers), layout=layout)
    model = _Model(plan, parameters, buffers, optimizer, proximal)
    seen = model.run(data, batch_size=batch_size, local_epochs=local_epochs, seed=seed)
    change = deltas.delta(_those(layout, model.parameters, model.buffers), start=start, layout=layout)
    if clip is not None:
        change = deltas.clip(change, limit=clip)
    in_vector = {place.name for place in layout.places}
    others = {name: each for name, each in model.buffers.items() if name not in in_vector}
    return Trained(change, len(data), seen.means(), tuple(seen.losses().tolist()), others)


@torch.no_grad()
def train_in_place(
    plan: Plan,
    data: Batches,
    *,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    optimizer: Optimizer,
    batch_size: int,
    local_epochs: int,
    seed: int,
    proximal: float = 0.0,
    clip: float | None = None,
) -> Seen:
    """The same training, whose results are written into ``parameters`` and ``buffers`` once all of it has succeeded.

    With ``clip``, a larger change is scaled down before it is written.

    Raises:
        As ``train``; then the tensors are as they were.
    """
    _check_numbers(local_epochs, clip)
    layout = deltas.layout_of(floats_in(parameters, buffers))
    start = deltas.flatten(_those(layout, parameters, buffers), layout=layout)
    model = _Model(plan, parameters, buffers, optimizer, proximal)
    with torch.enable_grad():  # as in any training: some kernels are chosen by it
        seen = model.run(data, batch_size=batch_size, local_epochs=local_epochs, seed=seed)
    change = deltas.delta(_those(layout, model.parameters, model.buffers), start=start, layout=layout)
    clipped = change if clip is None else deltas.clip(change, limit=clip)
    reported = Seen(seen.means(), seen.losses())
    if clipped is not change:
        trained = _those(layout, model.parameters, model.buffers)
        deltas.unflatten(start.add_(clipped), layout=layout, into=trained)
    for given, reached in ((parameters, model.parameters), (buffers, model.buffers)):
        for name, each in given.items():
            each.copy_(reached[name])
    return reported


class _Model:
    """The tensors that are trained, copies of those that were given, and the optimizer at work on them."""

    def __init__(
        self,
        plan: Plan,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        optimizer: Optimizer,
        proximal: float,
    ) -> None:
        if not parameters:
            raise ConfigurationError("there are no parameters to train")
        if not (math.isfinite(proximal) and proximal >= 0):
            raise ConfigurationError(f"proximal is {proximal}; it is a number of at least 0")
        for held in plan.program.parameters:
            _check_held("parameter", held, parameters)
        for buffer in plan.program.buffers:
            _check_held("buffer", buffer, buffers)
        trained = {each.names[0] for each in plan.program.parameters if each.trained}
        self._plan = plan
        self._proximal = proximal
        self._start = {name: each.detach() for name, each in parameters.items()} if proximal else {}
        self.parameters = {
            name: nn.Parameter(each.detach().clone(), requires_grad=name in trained)
            for name, each in parameters.items()
        }
        self.buffers = {name: each.detach().clone() for name, each in buffers.items()}
        self._device = next(iter(self.parameters.values())).device
        self._update = optimizer.over(self.parameters)

    def run(self, data: Batches, *, batch_size: int, local_epochs: int, seed: int) -> _Seen:
        """All epochs. What can be known not to fit is found before the first step."""
        check_fits(self._plan, data)
        prepare(self._plan, rows=len(data), batch_size=batch_size, device=self._device)
        seen = _Seen()
        step = 0
        for _ in range(local_epochs):
            for batch in data.epoch(batch_size, seed=seed, step=step):
                seen.add(self.step(batch, seed=seed, step=step), rows=len(batch[0]))
                step += 1
        return seen

    def step(self, batch: tuple[Tensor, ...], *, seed: int, step: int) -> Outcome:
        """One step; its outcome, whose gradients are used up."""
        here = [tensor.to(self._device) for tensor in batch]
        outcome = self._plan.step(self.parameters, self.buffers, here, seed=seed, step=step)
        self._update.step(self._drawn_back(outcome.gradients) if self._proximal else outcome.gradients)
        self.buffers.update(outcome.buffers)
        return outcome

    @torch.no_grad()
    def _drawn_back(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: gradient + self._proximal * (self.parameters[name] - self._start[name])
            for name, gradient in gradients.items()
        }


class _Seen:
    """Losses and metrics as they come. They are read at the end, so that no step waits for the device."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._values: dict[str, list[Tensor]] = {"loss": []}
        self._before: dict[str, list[Tensor]] = {}

    def add(self, outcome: Outcome, *, rows: int) -> None:
        self._rows.append(rows)
        self._values["loss"].append(_alone(outcome.loss))
        for name, value in outcome.metrics.items():
            self._values.setdefault(name, []).append(_alone(value))
        if not len(self._rows) % _KEPT_APART:
            for name, values in self._values.items():
                self._before.setdefault(name, []).append(torch.stack(values).double())
                values.clear()

    def losses(self) -> Tensor:
        return self._all("loss")

    def means(self) -> dict[str, float]:
        total = sum(self._rows)
        return {
            name: math.fsum(map(float.__mul__, self._all(name).tolist(), map(float, self._rows))) / total
            for name in self._values
        }

    def _all(self, name: str) -> Tensor:
        last = self._values[name]
        return torch.cat([*self._before.get(name, ()), *([torch.stack(last).double()] if last else ())]).cpu()


def _alone(value: Tensor) -> Tensor:
    """The value, which keeps no larger tensor alive that it may be a part of."""
    return value.clone() if value.untyped_storage().nbytes() > value.itemsize else value


def _those(layout: Layout, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    held = {**buffers, **parameters}
    return {place.name: held[place.name] for place in layout.places if place.name in held}


def prepare(plan: Plan, *, rows: int, batch_size: int, device: torch.device) -> int:
    """Makes the plan ready for the batches of so many rows; the memory that the largest step takes, in bytes.

    Raises:
        ConfigurationError: no batch size.
        PlanError: the plan does not fit such batches.
    """
    check_batch_size(batch_size)
    largest = min(batch_size, rows)
    peak = plan.replay(largest, device).peak
    last = rows - (batches_in(rows, batch_size=batch_size) - 1) * batch_size
    try:
        plan.replay(last, device)
    except PlanError as fault:
        few = "one row" if last == 1 else f"{last} rows"
        raise PlanError(
            f"{rows} rows in batches of {batch_size} leave {few} for the last batch of an epoch; "
            f"choose another batch size, for which the plan can be run ({fault})"
        ) from None
    return peak


def _check_held(what: str, held: Parameter | Buffer, among: Mapping[str, Tensor]) -> None:
    given = among.get(held.names[0])
    if given is None or given.dtype is not DTYPES[held.dtype] or given.shape != held.shape:
        expected = TensorSpec(held.dtype, held.shape)
        found = "" if given is None else f"; what it was given is {given.dtype} {list(given.shape)}"
        raise PlanError(f"the plan needs the {what} {held.names[0]!r}, {expected}{found}")


def _check_numbers(local_epochs: int, clip: float | None) -> None:
    if local_epochs < 1:
        raise ConfigurationError(f"local_epochs is {local_epochs}; it is at least 1")
    if clip is not None and not (math.isfinite(clip) and clip >= deltas.SMALLEST_NORM):
        raise ConfigurationError(f"clip is {clip}; it is a norm of at least {deltas.SMALLEST_NORM}")
