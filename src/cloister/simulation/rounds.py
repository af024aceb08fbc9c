"""The rounds of a simulation: owners are drawn, train together or alone, and their updates make the next model."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloister.aggregation.mean import shares
from cloister.aggregation.steps import step_of, step_type
from cloister.aggregation.strategies import FedProx, State, Strategy, apply_to_parameters
from cloister.charter.charter import Noise
from cloister.charter.jobs import Precision, Sampling, Weights
from cloister.errors import CloisterError, DataSetError, PlanError, TrainingError
from cloister.simulation.checkpoint import Progress
from cloister.simulation.groups import LARGEST, Groups
from cloister.simulation.noisy import NoisyUpdates, noise_from
from cloister.simulation.updates import LevelledUpdates, Updates
from cloister.study.clipping import clipping_of
from cloister.study.history import Round
from cloister.study.progress import evaluated
from cloister.tensor.held import buffers_of, parameters_of
from cloister.tensor.plan.learned import changed, learned
from cloister.tensor.plan.program import CLIPPED, UPDATE_NORM
from cloister.wire.fixed_point import most_drawn
from cloister.wire.layout import Layout, Regions, regions_of
from cloister.worker import flatten as deltas
from cloister.worker.batched_training import TrainingTogether
from cloister.worker.data.batches import Batches
from cloister.worker.data.salts import Seeds, draw_key, seeds_of, simulated_salt
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Plan
from cloister.worker.record_sums import RecordSums
from cloister.worker.training import Training

_log: Final = logging.getLogger(__name__)
RECORDS_BYTES: Final = 1 << 30
"""What the gradients of records that are computed at once may take."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulation's arguments; ``data`` by the owners' names, in order. ``model`` is its own, and holds the values of
    the round that is being computed."""

    model: nn.Module
    plan: Plan
    data: Mapping[str, Batches]
    optimizer: Optimizer
    batch_size: int
    local_epochs: int | None
    steps: int | None
    strategy: Strategy
    weights: Weights
    per_round: int | None
    floor: int | None
    largest_share: float
    clip: float | None
    clip_buffers: float | None
    home_buffers: bool
    noise: Noise | None
    sampling: Sampling | None
    precision: Precision
    seed: int
    job: bytes
    vectorise: bool
    replayed: Counter[str] = field(default_factory=Counter)
    """The number of trainings that were replayed one by one, by the reason why."""

    def begin(self) -> Progress:
        """The progress before the first round."""
        vector = deltas.flatten(self._learned(), layout=self.layout).numpy()
        first = {name: each.clone() for name, each in self._held().items() if name in self._at_home}
        homes = dict.fromkeys(self.data, first) if first else {}
        return Progress(vector, self.strategy.start(len(vector)), self._others(), homes=homes)

    @cached_property
    def layout(self) -> Layout:
        return deltas.layout_of(self._learned())

    @cached_property
    def _regions(self) -> Regions:
        return regions_of(self.layout, buffers=set(buffers_of(self.model)))

    def settings(self, start: Progress) -> dict[str, str]:
        """The settings that a checkpoint and a run that resumes it must share. Data sets are compared by size."""
        others = [(name, each.cpu().numpy().tobytes()) for name, each in sorted(start.others.items())]
        model = hashlib.sha256(start.vector.tobytes() + repr(others).encode())
        first = {name: each for name, each in self._held().items() if name in self._at_home}
        for name, each in sorted({**self._frozen(), **first}.items()):
            model.update(repr((name, each.dtype, tuple(each.shape))).encode())
            model.update(each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        numbers = (
            "optimizer batch_size local_epochs steps strategy weights per_round floor largest_share clip clip_buffers"
            " home_buffers noise sampling precision seed job vectorise"
        ).split()
        return {
            "plan": self.plan.digest.hex(),
            "model": model.hexdigest(),
            "set of owners": hashlib.sha256(repr(self._sizes).encode()).hexdigest(),
            **{name: repr(getattr(self, name)) for name in numbers},
        }

    @torch.no_grad()
    def load(self, progress: Progress) -> None:
        """Loads the values of a round into the model."""
        vector = torch.from_numpy(progress.vector)
        deltas.unflatten(vector, layout=self.layout, into=self._learned())
        for name, each in self._others().items():
            each.copy_(progress.others[name])

    def round(self, before: Progress, evaluate: Callable[[nn.Module], Mapping[str, float]] | None) -> Progress:
        """Computes one round from ``before``, which stays as it is."""
        started = perf_counter()
        number = len(before.rounds) + 1
        self.load(before)
        drawn = self._draw(number)
        counted = {name: self._sizes[name] if self.weights == "rows" else 1 for name in drawn}
        weights = shares(counted, largest_share=self.largest_share)
        if self.noise is None:
            found = self._train(self._updates(len(before.vector), weights), drawn, number, before.homes)
        else:
            found = self._with_noise(self.noise, before, weights, drawn, number)
        vector, state = apply_to_parameters(
            self.strategy,
            before.vector,
            mean=self._rounded(found.mean(), before.state, number),
            state=before.state,
            buffers=self._regions.buffers,
        )
        after = Progress(vector, state, found.others)
        self.load(after)
        evaluation = {} if evaluate is None else evaluated(self.model, evaluate)
        examples = [self._sizes[name] for name in found.owners]
        seconds = perf_counter() - started
        clipping = clipping_of(found.metrics.pop(CLIPPED, ()), found.metrics.pop(UPDATE_NORM, ()))
        metrics = _weighted(found.metrics, examples)
        done = Round(number, drawn, sum(examples), metrics, evaluation, seconds, clipping=clipping)
        homes = {**before.homes, **found.homes} if before.homes else {}
        return Progress(vector, state, found.others, (*before.rounds, done), homes)

    def _rounded(self, mean: NDArray[np.float64], state: State, number: int) -> NDArray[np.float64]:
        """The mean as it travels in a study."""
        half = None if self.precision == "full" else self.precision
        dtype = step_type(self.layout.dtype, half=half, averages=len(state.averages))
        if dtype is not None:
            step_of(mean, dtype=dtype, half=half, job=self.job, number=number)
        return mean

    def _updates(self, length: int, weights: Mapping[str, float]) -> Updates:
        if self.floor is None:
            return Updates(length, weights)
        limits = (self.clip, self.clip_buffers)
        return LevelledUpdates(length, weights, floor=self.floor, clips=limits, regions=self._regions)

    def _with_noise(
        self, noise: Noise, before: Progress, weights: Mapping[str, float], drawn: Sequence[str], number: int
    ) -> Updates:
        parts = len(drawn) if self.sampling is None else self.sampling.rows / self.optimizer.lr
        random = noise_from(self.seed, number)
        updates = NoisyUpdates(
            len(before.vector), weights, noise=noise, clip=self.clip or 0.0, parts=parts, random=random
        )
        if self.sampling is None:
            return self._train(updates, drawn, number, before.homes)
        if self._record_sums.gradients.replayed:
            self.replayed[self._record_sums.gradients.replayed] += len(drawn)
        for name in drawn:
            key = draw_key(simulated_salt(self.seed, name), job=self.job, number=number)
            most = most_drawn(self._sizes[name] * self.sampling.rate)
            try:
                summed = self._record_sums.run(self.data[name], key=key, most_rows=most)
            except (DataSetError, PlanError) as fault:
                raise at_owner(name, fault) from fault
            if summed.left_out:  # as its node says it to an owner
                _log.warning("owner %r: the gradients of %d records could not be computed", name, summed.left_out)
            updates.add_sum(name, summed)
        updates.others = self._others()
        return updates

    @cached_property
    def _record_sums(self) -> RecordSums:
        rate = 1.0 if self.sampling is None else self.sampling.rate
        return RecordSums(
            self.plan,
            parameters=parameters_of(self.model),
            buffers=buffers_of(self.model),
            layout=self.layout,
            clip=self.clip or 0.0,
            rate=rate,
            at_once=self.batch_size,
            memory_bytes=RECORDS_BYTES,
        )

    def _draw(self, number: int) -> tuple[str, ...]:
        names = tuple(self.data)
        if self.per_round is None:
            return names
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, number))))
        drawn = generator.choice(len(names), self.per_round, replace=False)
        return tuple(names[at] for at in sorted(drawn))

    def _train(
        self, updates: Updates, drawn: Sequence[str], number: int, homes: Mapping[str, Mapping[str, Tensor]]
    ) -> Updates:
        """Trains every owner that was drawn: in groups, and then one by one in the order of their names."""
        groups, alone = self._groups.of(drawn)
        for together, names in groups:
            seeds = [self._seeds(name, number) for name in names]
            try:
                rows: Any = [self.data[name] for name in names]
                trained = together.run(rows, seeds=seeds, homes=[homes[name] for name in names] if homes else ())
                updates.add_all(names, trained)
            except CloisterError as fault:  # training one by one will show whose fault it is, if it is any owner's
                alone.update(dict.fromkeys(names, f"their group could not be trained: {fault}"))
        if alone:
            self._train_alone(updates, sorted(alone), number, homes)
        self.replayed.update(alone.values())
        return updates

    def _seeds(self, owner: str, number: int) -> Seeds:
        return seeds_of(simulated_salt(self.seed, owner), job=self.job, number=number)

    def _train_alone(
        self, updates: Updates, names: Sequence[str], number: int, homes: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        training = Training(self.plan, **self._arguments)
        for name in names:
            try:
                seeds = self._seeds(name, number)
                trained = training.run(
                    self.data[name],
                    seed=seeds.steps,
                    rows_seed=seeds.rows,
                    rounding_seed=seeds.rounding,
                    home=homes.get(name, {}),
                )
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
            "parameters": parameters_of(self.model),
            "buffers": buffers_of(self.model),
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            "local_epochs": self.local_epochs,
            "steps": self.steps,
            "proximal": self.strategy.mu if isinstance(self.strategy, FedProx) else 0.0,
            "clip": self.clip,
            "clip_buffers": self.clip_buffers,
            "half": None if self.precision == "full" else self.precision,
            "layout": self.layout,
        }

    def _learned(self) -> dict[str, Tensor]:
        """What the plan learns, which the rounds change by averaging, but for what stays at home."""
        names = learned(self.plan.program).names - self._at_home
        return {name: each for name, each in self._held().items() if name in names}

    @cached_property
    def _at_home(self) -> frozenset[str]:
        """The buffers that each owner keeps to itself."""
        return frozenset(learned(self.plan.program).buffers if self.home_buffers else ())

    def _held(self) -> dict[str, Tensor]:
        return {**parameters_of(self.model), **buffers_of(self.model)}

    def _others(self) -> dict[str, Tensor]:
        """The buffers that the plan writes and nobody averages: counters, in most models."""
        counted = {*changed(self.plan.program).buffers} - {*learned(self.plan.program).buffers}
        return {name: each for name, each in buffers_of(self.model).items() if name in counted}

    def _frozen(self) -> dict[str, Tensor]:
        """The tensors that stay as they are."""
        names = changed(self.plan.program).names
        return {name: each for name, each in self._held().items() if name not in names}


def _weighted(values: Mapping[str, Sequence[float]], examples: Sequence[int]) -> dict[str, float]:
    total = sum(examples)
    return {
        name: sum(count * value for count, value in zip(examples, each, strict=True)) / total
        for name, each in values.items()
    }


def at_owner(owner: str, fault: CloisterError) -> CloisterError:
    """The same fault, with the owner's name before its text."""
    return type(fault)(f"owner {owner!r}: {fault}")
