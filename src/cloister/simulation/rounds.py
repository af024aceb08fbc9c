"""The rounds of a simulation: owners are drawn, train together or alone, and their updates make the next model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cloister.aggregation.group_mean import GroupSum
from cloister.aggregation.mean import shares
from cloister.aggregation.strategies import FedProx, Strategy, apply_to_parameters
from cloister.errors import CloisterError, DataSetError, PlanError, TrainingError
from cloister.ledger.job import owner_seed
from cloister.simulation.checkpoint import Progress
from cloister.simulation.groups import LARGEST, Groups
from cloister.study.history import Round
from cloister.study.progress import evaluated
from cloister.wire.layout import Layout
from cloister.worker import flatten as deltas
from cloister.worker.batched_training import TrainedTogether, TrainingTogether
from cloister.worker.data.batches import Batches
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Plan
from cloister.worker.training import Trained, Training


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulation's arguments; ``data`` by the owners' names, in order. ``model`` is its own, and holds the values of
    the round that is being computed."""

    model: nn.Module
    plan: Plan
    data: Mapping[str, Batches]
    optimizer: Optimizer
    batch_size: int
    local_epochs: int
    strategy: Strategy
    per_round: int | None
    largest_share: float
    clip: float | None
    seed: int
    vectorise: bool
    replayed: Counter[str] = field(default_factory=Counter)
    """The number of trainings that were replayed one by one, by the reason why."""

    def begin(self) -> Progress:
        """The progress before the first round."""
        vector = deltas.flatten(deltas.floats_of(self.model), layout=self.layout).numpy()
        return Progress(vector, self.strategy.start(len(vector)), self._others())

    @cached_property
    def layout(self) -> Layout:
        return deltas.layout_of(deltas.floats_of(self.model))

    @cached_property
    def _buffers(self) -> list[slice]:
        names = {name for name, _ in self.model.named_buffers()}
        return [slice(place.start, place.stop) for place in self.layout.places if place.name in names]

    def settings(self, start: Progress) -> dict[str, str]:
        """The settings that a checkpoint and a run that resumes it must share. Data sets are compared by size."""
        others = [(name, each.cpu().numpy().tobytes()) for name, each in sorted(start.others.items())]
        numbers = "optimizer batch_size local_epochs strategy per_round largest_share clip seed vectorise".split()
        return {
            "plan": self.plan.digest.hex(),
            "model": hashlib.sha256(start.vector.tobytes() + repr(others).encode()).hexdigest(),
            "set of owners": hashlib.sha256(repr(self._sizes).encode()).hexdigest(),
            **{name: repr(getattr(self, name)) for name in numbers},
        }

    @torch.no_grad()
    def load(self, progress: Progress) -> None:
        """Loads the values of a round into the model."""
        vector = torch.from_numpy(progress.vector)
        deltas.unflatten(vector, layout=self.layout, into=deltas.floats_of(self.model))
        for name, each in self._others().items():
            each.copy_(progress.others[name])

    def round(self, before: Progress, evaluate: Callable[[nn.Module], Mapping[str, float]] | None) -> Progress:
        """Computes one round from ``before``, which stays as it is."""
        started = perf_counter()
        number = len(before.rounds) + 1
        self.load(before)
        drawn = self._draw(number)
        weights = shares({name: self._sizes[name] for name in drawn}, largest_share=self.largest_share)
        found = self._train(_Updates(len(before.vector), weights), drawn, number)
        vector, state = apply_to_parameters(
            self.strategy, before.vector, mean=found.total.mean(), state=before.state, buffers=self._buffers
        )
        after = Progress(vector, state, found.others)
        self.load(after)
        evaluation = {} if evaluate is None else evaluated(self.model, evaluate)
        examples = [self._sizes[name] for name in found.owners]
        seconds = perf_counter() - started
        done = Round(number, drawn, sum(examples), _weighted(found.metrics, examples), evaluation, seconds)
        return Progress(vector, state, found.others, (*before.rounds, done))

    def _draw(self, number: int) -> tuple[str, ...]:
        names = tuple(self.data)
        if self.per_round is None:
            return names
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, number))))
        drawn = generator.choice(len(names), self.per_round, replace=False)
        return tuple(names[at] for at in sorted(drawn))

    def _train(self, updates: _Updates, drawn: Sequence[str], number: int) -> _Updates:
        """Trains every owner that was drawn: in groups, and then one by one in the order of their names."""
        groups, alone = self._groups.of(drawn)
        for together, names in groups:
            seeds = [owner_seed(self.seed, number=number, owner=name) for name in names]
            try:
                trained = together.run([self.data[name] for name in names], seeds=seeds)  # type: ignore[misc]
                updates.add_all(names, trained)
            except CloisterError as fault:  # training one by one will show whose fault it is, if it is any owner's
                alone.update(dict.fromkeys(names, f"their group could not be trained: {fault}"))
        if alone:
            self._train_alone(updates, sorted(alone), number)
        self.replayed.update(alone.values())
        return updates

    def _train_alone(self, updates: _Updates, names: Sequence[str], number: int) -> None:
        training = Training(self.plan, **self._arguments)
        for name in names:
            try:
                trained = training.run(self.data[name], seed=owner_seed(self.seed, number=number, owner=name))
            except (DataSetError, PlanError, TrainingError) as fault:
                raise at_owner(name, fault) from fault
            updates.add(name, trained)

    @cached_property
    def _groups(self) -> Groups:
        def make(rows: int) -> TrainingTogether:
            return TrainingTogether(self.plan, rows=rows, memory_bytes=LARGEST, **self._arguments)

        return Groups(self.data, make=make, vectorise=self.vectorise)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {name: len(each) for name, each in self.data.items()}

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """The arguments of every training, alone or together."""
        return {
            "parameters": dict(self.model.named_parameters()),
            "buffers": dict(self.model.named_buffers()),
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            "local_epochs": self.local_epochs,
            "proximal": self.strategy.mu if isinstance(self.strategy, FedProx) else 0.0,
            "clip": self.clip,
            "layout": self.layout,
        }

    def _others(self) -> dict[str, Tensor]:
        averaged = deltas.floats_of(self.model)
        return {name: each for name, each in self.model.named_buffers() if name not in averaged}


class _Updates:
    """The results of a round's trainings: the running sum of the updates, the metrics of ``owners``, and the other
    buffers of the owner whose name is first."""

    def __init__(self, length: int, weights: Mapping[str, float]) -> None:
        self.total = GroupSum(length)
        self.owners: list[str] = []
        self.metrics: dict[str, list[float]] = {}
        self.others: Mapping[str, Tensor] = {}
        self._weights = weights

    def add(self, name: str, trained: Trained) -> None:
        """Adds one owner's result."""
        self.total.add(trained.delta.numpy(), weight=self._weights[name], what=f"the update of {name}")
        self._note([name], {metric: [value] for metric, value in trained.metrics.items()}, trained.others)

    def add_all(self, names: Sequence[str], trained: TrainedTogether) -> None:
        """Adds a group's results."""
        weights = [self._weights[name] for name in names]
        self.total.add_all(trained.deltas.numpy(), weights=weights, what="the updates of a group")
        self._note(names, trained.metrics, trained.others)

    def _note(self, names: Sequence[str], metrics: Mapping[str, list[float]], others: Mapping[str, Tensor]) -> None:
        if names[0] == next(iter(self._weights)):
            self.others = others
        self.owners += names
        for metric, values in metrics.items():
            self.metrics.setdefault(metric, []).extend(values)


def _weighted(values: Mapping[str, Sequence[float]], examples: Sequence[int]) -> dict[str, float]:
    total = sum(examples)
    return {
        name: sum(count * value for count, value in zip(examples, each, strict=True)) / total
        for name, each in values.items()
    }


def at_owner(owner: str, fault: CloisterError) -> CloisterError:
    """The same fault, with the owner's name before its text."""
    return type(fault)(f"owner {owner!r}: {fault}")
