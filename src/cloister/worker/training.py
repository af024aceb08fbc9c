"""Local training: a plan replayed over one owner's data set, and what came out of it as one vector.

A training is a function of its arguments alone: the same plan, data set, tensors, numbers and seed give the same bits
on the same machine with as many threads. The seed decides the order of the rows in each epoch and, through the plan,
all random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from cloister.tensor.plan.learned import changed, learned
from cloister.tensor.plan.program import CLIPPED, UPDATE_NORM
from cloister.wire.layout import Half, Layout, regions_of
from cloister.wire.sessions import STEP
from cloister.worker import flatten as deltas
from cloister.worker.data.batches import Batches, RowNumbers, batches_in, whole_batches
from cloister.worker.data.converted import fitted
from cloister.worker.ending import Ending
from cloister.worker.fitting import check_numbers, check_tensors, check_whole, columns_of, prepare
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Outcome, Plan

_NOTHING: Final[Mapping[str, Tensor]] = {}
_KEPT_APART: Final = 1024
"""So many losses are single tensors at a time; those before them are together in one."""


def unheard(what: str) -> None:
    """For those who need not hear of what begins."""


class Norms(NamedTuple):
    """The L2 norms of an update's parameters and of its buffers."""

    parameters: float
    buffers: float


class Trained(NamedTuple):
    """What a local training came to.

    ``delta`` is the trained model minus the one it began with, a flat vector in the order of ``wire.layout``, clipped
    where that was asked for; ``norms`` are the L2 norms of its parameters and of its buffers; ``examples`` is the
    number of the data set's rows. ``metrics`` are the means over all that was trained on, each step weighted by its
    rows, with ``"loss"`` among them; and of the update ``"clipped"``, 1 if its parameters were and else 0, and
    ``"update_norm"``, their norm before that. ``losses`` is the loss of each step. ``others`` are the buffers that the
    plan writes and that are no part of the vector, as the last step left them: counters, in most models.
    """

    delta: Tensor
    norms: Norms
    examples: int
    metrics: dict[str, float]
    losses: tuple[float, ...]
    others: dict[str, Tensor]


class Seen(NamedTuple):
    """What a training in place reports; ``losses`` is a float64 tensor on the CPU. The rest as in ``Trained``."""

    metrics: dict[str, float]
    losses: Tensor


def train(
    plan: Plan,
    data: Batches,
    *,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    optimizer: Optimizer,
    batch_size: int,
    seed: int,
    local_epochs: int | None = None,
    steps: int | None = None,
    rows_seed: int = 0,
    rounding_seed: int = 0,
    proximal: float = 0.0,
    clip: float | None = None,
    clip_buffers: float | None = None,
    half: Half | None = None,
    layout: Layout | None = None,
    begin: Callable[[str], None] = unheard,
) -> Trained:
    """Trains a model on a data set: ``local_epochs`` times over all rows, the last batch of each smaller if need be; or
    for so many ``steps`` over as many rows as whole batches take, which ``rows_seed`` chooses.

    It is computed on the device of the parameters. They and the buffers stay as they are. The optimizer, its schedule
    included, begins anew.

    Args:
        parameters, buffers: by name, as ``dict(model.named_parameters())`` gives them.
        seed, rows_seed, rounding_seed: 0 to 2^64 - 1. Epochs and steps are numbered from 0 and counted on through all
            epochs.
        proximal: the mu of FedProx (Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020,
            equation 2): ``mu / 2 * ||w - w_start||^2`` is added to the loss, and so ``mu * (w - w_start)`` to the
            gradients. The losses that are reported are without it.
        clip, clip_buffers: the most that the L2 norm of the delta's parameters, and of its buffers, may be; larger ones
            are scaled down to it.
        half: the element type of two bytes that the delta is rounded to, in which it then travels; None: it is not.
        layout: which tensors the delta holds, and where; those that the plan learns if it is None.
        begin: is told of each step before it begins.

    Raises:
        ConfigurationError: numbers out of range, tensors that are not those of ``layout``, or no parameters.
        DataSetError: the data set does not fit the plan; before the first step. Or a file turns out to be damaged.
        PlanError: the tensors do not fit the plan, or an operation failed on their values.
        TrainingError: training led to values that are not finite.
    """
    training = Training(
        plan,
        parameters=parameters,
        buffers=buffers,
        optimizer=optimizer,
        batch_size=batch_size,
        local_epochs=local_epochs,
        steps=steps,
        proximal=proximal,
        clip=clip,
        clip_buffers=clip_buffers,
        half=half,
        layout=layout,
        begin=begin,
    )
    return training.run(data, seed=seed, rows_seed=rows_seed, rounding_seed=rounding_seed)


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
    begin: Callable[[str], None] = unheard,
) -> Seen:
    """The same training, whose results are written into ``parameters`` and ``buffers`` once all of it has succeeded.

    With ``clip``, a larger change is scaled down before it is written.

    Raises:
        As ``train``; then the tensors are as they were.
    """
    training = Training(
        plan,
        parameters=parameters,
        buffers=buffers,
        optimizer=optimizer,
        batch_size=batch_size,
        local_epochs=local_epochs,
        proximal=proximal,
        clip=clip,
        begin=begin,
    )
    with torch.enable_grad():  # as in any training: some kernels are chosen by it
        return training.run_into({**buffers, **parameters}, data, seed=seed)


class Training:
    """What ``train`` does, made ready once for one data set after the other; the arguments are those of ``train``.

    Each run begins with the values of the tensors given here, which nobody may change meanwhile, and comes to the bits
    of a ``train`` of its own.

    Raises:
        ConfigurationError, PlanError: as ``train``.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        optimizer: Optimizer,
        batch_size: int,
        local_epochs: int | None = None,
        steps: int | None = None,
        proximal: float = 0.0,
        clip: float | None = None,
        clip_buffers: float | None = None,
        half: Half | None = None,
        layout: Layout | None = None,
        begin: Callable[[str], None] = unheard,
    ) -> None:
        check_numbers(batch_size, local_epochs, steps, proximal, clip, clip_buffers)
        check_tensors(plan, parameters, buffers)
        self._layout = layout or layout_of(plan, parameters, buffers)
        self._start = deltas.flatten(those(self._layout, parameters, buffers), layout=self._layout)
        self._model = _Model(plan, parameters, buffers, optimizer, proximal)
        self._plan, self._expected = plan, columns_of(plan)
        self._batch_size, self._epochs, self._steps = batch_size, local_epochs, steps
        self._ending = Ending(clip, clip_buffers, half)
        self._regions = regions_of(self._layout, buffers=buffers)
        self._in_vector = {place.name for place in self._layout.places}
        self._begin = begin

    def run(
        self,
        data: Batches,
        *,
        seed: int,
        rows_seed: int = 0,
        rounding_seed: int = 0,
        home: Mapping[str, Tensor] = _NOTHING,
    ) -> Trained:
        """Trains on one data set. ``home``: buffers that begin with these values, and not with those given before.

        Raises:
            DataSetError, PlanError, TrainingError: as ``train``.
        """
        seen, whole, change = self._run(data, seed, rows_seed, rounding_seed, home)
        norm = deltas.norm(whole, regions=self._regions.parameters)
        clipped = self._ending.clip is not None and not deltas.within(norm, self._ending.clip)
        metrics = {**seen.means(), CLIPPED: float(clipped), UPDATE_NORM: norm}
        others = {name: each for name, each in self._model.written().items() if name not in self._in_vector}
        deltas.check_finite(others)  # a buffer that stays with its owner would stay so for good
        norms = Norms(*(deltas.norm(change, regions=each) for each in self._regions))
        return Trained(change, norms, len(data), metrics, tuple(seen.losses().tolist()), others)

    def run_into(self, tensors: Mapping[str, Tensor], data: Batches, *, seed: int) -> Seen:
        """Trains on one data set, and writes what came of it into these parameters and buffers, by name.

        Raises:
            DataSetError, PlanError, TrainingError: as ``train``; then the tensors are as they were.
        """
        seen, whole, change = self._run(data, seed, 0, 0, _NOTHING)
        reported = Seen(seen.means(), seen.losses())
        with torch.no_grad():
            if change is not whole:
                trained = those(self._layout, self._model.parameters, self._model.buffers)
                deltas.unflatten(self._start + change, layout=self._layout, into=trained)
            for name, reached in {**self._model.written(), **self._model.trained}.items():
                tensors[name].copy_(reached)
        return reported

    def _run(
        self, data: Batches, seed: int, rows_seed: int, rounding_seed: int, home: Mapping[str, Tensor]
    ) -> tuple[_Seen, Tensor, Tensor]:
        """All steps, and the change that they made, before and after it is clipped and rounded. What can be known not
        to fit is found before the first step."""
        data = fitted(data, expected=self._expected)
        model, seen = self._model, _Seen()
        chosen, rows = None, len(data)
        if self._steps is not None:
            check_whole(rows, batch_size=self._batch_size)
            chosen = whole_batches(rows, batch_size=self._batch_size, seed=rows_seed)
            rows = len(chosen)
        prepare(self._plan, rows=rows, batch_size=self._batch_size, device=model.device)
        model.restart(home)
        for step, batch in enumerate(self._batches(data, seed, chosen, rows)):
            self._begin(STEP)
            seen.add(model.step(batch, seed=seed, step=step), rows=len(batch[0]))
        trained = those(self._layout, model.parameters, model.buffers)
        change = deltas.delta(trained, start=self._start, layout=self._layout)
        return seen, change, self._ending.of(change, regions=self._regions, seed=rounding_seed)

    def _batches(self, data: Batches, seed: int, chosen: RowNumbers | None, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """The batch of each step."""
        each = batches_in(rows, batch_size=self._batch_size)
        steps = each * self._epochs if self._epochs is not None else self._steps
        for step in range(0, steps or 0, each):
            batches = data.epoch(self._batch_size, seed=seed, step=step, chosen=chosen)
            yield from batches if steps is None else islice(batches, steps - step)


class _Model:
    """The tensors that are trained or written, copies of those that were given; the others as they were given; and the
    optimizer at work on them."""

    def __init__(
        self,
        plan: Plan,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        optimizer: Optimizer,
        proximal: float,
    ) -> None:
        own = changed(plan.program)
        self._plan = plan
        self._proximal = proximal
        self._start = {name: parameters[name].detach() for name in own.parameters}
        self._written = own.buffers
        self._buffers = {name: each.detach() for name, each in buffers.items()}
        self.trained = {name: nn.Parameter(each.clone()) for name, each in self._start.items()}
        frozen = {name: each.detach() for name, each in parameters.items()}
        self.parameters: dict[str, Tensor] = {**frozen, **self.trained}
        self.buffers = self._buffers
        self.device = next(iter(self.parameters.values())).device
        self._update = optimizer.over(self.trained)

    @torch.no_grad()
    def restart(self, home: Mapping[str, Tensor]) -> None:
        """Goes back to the start, with the buffers in ``home``; what an earlier training handed out stays as it is."""
        for name, each in self._start.items():
            self.trained[name].copy_(each)
        self.buffers = {
            **self._buffers,
            **{name: home.get(name, self._buffers[name]).clone() for name in self._written},
        }
        self._update.restart()

    def written(self) -> dict[str, Tensor]:
        """The buffers that the plan writes."""
        return {name: self.buffers[name] for name in self._written}

    def step(self, batch: tuple[Tensor, ...], *, seed: int, step: int) -> Outcome:
        """One step; its outcome, whose gradients are used up."""
        here = [tensor.to(self.device) for tensor in batch]
        outcome = self._plan.step(self.parameters, self.buffers, here, seed=seed, step=step)
        self._update.step(self._drawn_back(outcome.gradients) if self._proximal else outcome.gradients)
        self.buffers.update(outcome.buffers)
        return outcome

    @torch.no_grad()
    def _drawn_back(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: gradient + self._proximal * (self.trained[name] - self._start[name])
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


def layout_of(plan: Plan, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Layout:
    """The layout of what a plan learns of a model."""
    held, names = {**buffers, **parameters}, learned(plan.program).names
    return deltas.layout_of({name: held[name] for name in names})


def those(layout: Layout, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a layout has."""
    held = {**buffers, **parameters}
    return {place.name: held[place.name] for place in layout.places if place.name in held}
