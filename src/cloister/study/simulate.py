"""``cloister.simulate``: a federated training of many owners on one machine, for experiments.

A round is that of McMahan et al. 2017, Algorithm 1, with the server's rules of ``aggregator.updates``: some owners are
drawn, each trains the model on its data beginning from the same values, and the mean of what they changed, weighted by
their examples, goes into the strategy's rule. Floating-point parameters and buffers take part; other buffers, such as
the number of batches that a normalisation has seen, become those of the first owner that was drawn, by name. The
rule is for parameters; buffers get the mean as it is, since they are statistics, and momentum or an adaptive step could
carry a variance below zero.

A run is a function of its arguments: owner by owner a plan is replayed, seeds are drawn from the run's seed, the
round's number and the owner's name, and sums are taken in the order of the names. So a run that is gone on with from a
checkpoint ends in the same bits. One owner's update is held at a time, however many owners there are.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Final, TypeAlias

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from cloister.aggregator.mean import Sum, shares
from cloister.aggregator.updates import FedAvg, FedProx, Rule, apply_to_parameters
from cloister.errors import AggregationError, ConfigurationError, DataSetError, PlanError, TrainingError
from cloister.study import checkpoint as checkpoints
from cloister.study.board import board
from cloister.study.checkpoint import Progress
from cloister.study.history import History, Round
from cloister.wire.layout import Layout
from cloister.worker import delta as deltas
from cloister.worker.data.batches import Batches
from cloister.worker.data.rows import Arrays
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Plan, PlannedLoss
from cloister.worker.training import Trained, check_fits, train

Owner: TypeAlias = Batches | Sequence[Tensor]
"""An owner's data: a data set, or its columns as tensors, such as ``(x, y)``."""

_EXAMPLE: Final = 4
_FEDAVG: Final = FedAvg()


@dataclass(frozen=True)
class Run:
    """What came of a simulation: the trained model, what happened round by round, and the plan that was trained.

    ``finished`` is False where Ctrl-C ended it before its last round.
    """

    model: nn.Module
    history: History
    plan: Plan
    finished: bool


def simulate(
    model: nn.Module,
    loss: PlannedLoss | Plan,
    *,
    owners: Mapping[str, Owner],
    optimizer: Optimizer,
    batch_size: int,
    rounds: int,
    local_epochs: int = 1,
    strategy: Rule = _FEDAVG,
    per_round: int | None = None,
    largest_share: float = 1.0,
    clip: float | None = None,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    tensorboard: str | PathLike[str] | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Run:
    """Trains a copy of ``model`` in rounds on the owners' data, as federated learning would.

    Ctrl-C ends the run after the last round that was finished, and returns what there is.

    Args:
        loss: a function marked with ``@cloister.plan``, or a plan that it was captured as.
        owners: each owner's data, by its name.
        optimizer: what each owner trains with; it begins anew in each round.
        strategy: what becomes of the mean: ``FedAvg``, ``FedAvgM``, ``FedProx``, ``FedAdagrad``, ``FedYogi``,
            ``FedAdam``.
        per_round: how many owners are drawn for each round, without replacement; None is all.
        largest_share: the most that one owner may be of the mean.
        clip: the most that the L2 norm of an owner's update may be.
        seed: 0 to 2^64 - 1.
        checkpoint: a file (safetensors) that is written after each round; one that is there is gone on with.
        tensorboard: a folder that each round is written to as it ends, for TensorBoard to show.
        evaluate: called after each round with the new model in ``eval`` mode; the numbers that it returns stand in the
            history.
        on_round: called after each round, in place of the line that is printed where there is a terminal.

    Raises:
        ConfigurationError: numbers out of range, a checkpoint of another run, or a folder that cannot be written.
        MissingDependencyError: ``tensorboard`` is given, and the package is not installed.
        DataSetError: an owner's data set does not fit the plan; the message names owner and column.
        PlanError: the loss cannot be captured, or fails on the owners' values, or an owner's last batch is one row, on
            which the plan cannot be trained (BatchNorm).
        TrainingError, AggregationError: training led to values that are not finite.
    """
    data = {name: _data_set(name, owners[name], loss) for name in sorted(owners)}
    _check(data, rounds=rounds, per_round=per_round, largest_share=largest_share, seed=seed)
    trained = copy.deepcopy(model)
    plan = _plan(loss, trained, next(iter(data.values())))
    for name, each in data.items():
        with _of(name):
            check_fits(plan, each, batch_size=batch_size)
    simulation = _Simulation(
        trained, plan, data, optimizer, batch_size, local_epochs, strategy, per_round, largest_share, clip, seed
    )
    path = None if checkpoint is None else Path(checkpoint)
    tell = _printed() if on_round is None else on_round
    progress, finished = _run(simulation, rounds, path, tensorboard, evaluate, tell)
    simulation.load(progress)
    return Run(trained, History(progress.rounds), plan, finished)


def seed_of(owner: str, *, round: int, seed: int) -> int:  # noqa: A002  what it is
    """The seed of one owner's training in one round (from 1): the first 8 bytes, big-endian, of SHA-256 of
    ``"seed round owner"``. It does not depend on who else there is."""
    return int.from_bytes(hashlib.sha256(f"{seed} {round} {owner}".encode()).digest()[:8], "big")


def _run(
    simulation: _Simulation,
    rounds: int,
    path: Path | None,
    tensorboard: str | PathLike[str] | None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
    on_round: Callable[[Round], None],
) -> tuple[Progress, bool]:
    progress = simulation.begin()
    settings = simulation.settings(progress) if path else {}
    if path and path.exists():
        progress = checkpoints.read(path, start=progress, settings=settings)
        if len(progress.rounds) > rounds:
            raise ConfigurationError(
                f"{path} is of a run of {len(progress.rounds)} rounds already, and not of {rounds}"
            )
    try:
        with nullcontext() if tensorboard is None else board(tensorboard, rounds=progress.rounds) as show:
            while len(progress.rounds) < rounds:
                progress = simulation.round(progress, evaluate)  # in one step, so that Ctrl-C finds either
                if path:
                    checkpoints.write(path, progress, settings=settings)
                if show:
                    show(progress.rounds[-1])
                on_round(progress.rounds[-1])
    except KeyboardInterrupt:
        return progress, len(progress.rounds) == rounds
    return progress, True


@dataclass(frozen=True, eq=False)
class _Simulation:
    """A simulation's arguments. ``model`` is its own; what it holds is that of the round that is being computed."""

    model: nn.Module
    plan: Plan
    data: Mapping[str, Batches]
    optimizer: Optimizer
    batch_size: int
    local_epochs: int
    strategy: Rule
    per_round: int | None
    largest_share: float
    clip: float | None
    seed: int

    def begin(self) -> Progress:
        """Before the first round."""
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
        """What a checkpoint must agree in with the run that goes on from it; data sets are told by their sizes."""
        sizes = {name: len(each) for name, each in self.data.items()}
        others = [(name, each.cpu().numpy().tobytes()) for name, each in sorted(start.others.items())]
        numbers = "optimizer batch_size local_epochs strategy per_round largest_share clip seed".split()
        return {
            "plan": self.plan.digest.hex(),
            "model": hashlib.sha256(start.vector.tobytes() + repr(others).encode()).hexdigest(),
            "set of owners": hashlib.sha256(repr(sizes).encode()).hexdigest(),
            **{name: repr(getattr(self, name)) for name in numbers},
        }

    @torch.no_grad()
    def load(self, progress: Progress) -> None:
        """Gives the model the values of a round."""
        vector = torch.from_numpy(progress.vector)
        deltas.unflatten(vector, layout=self.layout, into=deltas.floats_of(self.model))
        for name, each in self._others().items():
            each.copy_(progress.others[name])

    def round(self, before: Progress, evaluate: Callable[[nn.Module], Mapping[str, float]] | None) -> Progress:
        """What one round makes of ``before``, which stays as it is."""
        started = perf_counter()
        number = len(before.rounds) + 1
        self.load(before)
        drawn = self._draw(number)
        weights = shares({name: len(self.data[name]) for name in drawn}, largest_share=self.largest_share)
        total = Sum(len(before.vector))
        means: dict[str, dict[str, float]] = {}
        others: Mapping[str, Tensor] = {}
        for name in drawn:
            found = self._train(name, number)
            total.add(found.delta.numpy(), weight=weights[name], what=f"the update of {name}")
            means[name] = found.metrics
            others = others or found.others
        vector, state = apply_to_parameters(
            self.strategy, before.vector, mean=total.mean(), state=before.state, buffers=self._buffers
        )
        after = Progress(vector, state, others)
        evaluation = {} if evaluate is None else self._evaluate(after, evaluate)
        examples = {name: len(self.data[name]) for name in drawn}
        seconds = perf_counter() - started
        done = Round(number, drawn, sum(examples.values()), _weighted(means, examples), evaluation, seconds)
        return Progress(vector, state, others, (*before.rounds, done))

    def _draw(self, number: int) -> tuple[str, ...]:
        names = sorted(self.data)
        if self.per_round is None:
            return tuple(names)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, number))))
        drawn = generator.choice(len(names), self.per_round, replace=False)
        return tuple(names[at] for at in sorted(drawn))

    def _train(self, name: str, number: int) -> Trained:
        with _of(name):
            return train(
                self.plan,
                self.data[name],
                parameters=dict(self.model.named_parameters()),
                buffers=dict(self.model.named_buffers()),
                optimizer=self.optimizer,
                batch_size=self.batch_size,
                local_epochs=self.local_epochs,
                seed=seed_of(name, round=number, seed=self.seed),
                proximal=self.strategy.mu if isinstance(self.strategy, FedProx) else 0.0,
                clip=self.clip,
                layout=self.layout,
            )

    def _evaluate(self, after: Progress, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
        self.load(after)
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            self.model.eval()
            return {name: float(value) for name, value in evaluate(self.model).items()}
        finally:
            for module, mode in modes:
                module.training = mode

    def _others(self) -> dict[str, Tensor]:
        averaged = deltas.floats_of(self.model)
        return {name: each for name, each in self.model.named_buffers() if name not in averaged}


def _weighted(means: Mapping[str, Mapping[str, float]], examples: Mapping[str, int]) -> dict[str, float]:
    total = sum(examples.values())
    names = next(iter(means.values()))
    return {name: sum(examples[owner] * means[owner][name] for owner in means) / total for name in names}


def _plan(loss: PlannedLoss | Plan, model: nn.Module, data: Batches) -> Plan:
    if isinstance(loss, Plan):
        return loss
    example = [
        torch.zeros(_EXAMPLE, *column.row.shape, dtype=getattr(torch, column.row.dtype)) for column in data.schema
    ]
    return loss.capture(model, example=example)


def _data_set(name: str, owner: Owner, loss: PlannedLoss | Plan) -> Batches:
    if not isinstance(loss, (PlannedLoss, Plan)):
        raise ConfigurationError("the loss is no plan; write @cloister.plan above the function")
    if not isinstance(owner, (tuple, list)):
        return owner  # type: ignore[return-value]  # a Protocol cannot be told from a Sequence
    if not all(isinstance(column, Tensor) for column in owner):
        raise DataSetError(f"owner {name!r}: the columns of a data set are tensors; torch.as_tensor makes them")
    with _of(name):
        return Arrays(dict(zip(_columns(loss, len(owner)), owner, strict=True)))


def _columns(loss: PlannedLoss | Plan, count: int) -> list[str]:
    """What columns without names go by: the arguments of the loss function, where it has one for each."""
    if isinstance(loss, PlannedLoss):
        arguments = list(inspect.signature(loss.function).parameters)[1:]
        if len(arguments) == count:
            return arguments
    return [f"column {at}" for at in range(count)]


def _check(data: Mapping[str, Batches], *, rounds: int, per_round: int | None, largest_share: float, seed: int) -> None:
    if not data:
        raise ConfigurationError("there are no owners")
    if rounds < 1:
        raise ConfigurationError(f"rounds is {rounds}; it is at least 1")
    if per_round is not None and not 1 <= per_round <= len(data):
        raise ConfigurationError(f"per_round is {per_round}; it is from 1 to the number of owners, {len(data)}")
    if not 0 <= seed < 1 << 64:
        raise ConfigurationError(f"the seed is {seed}; it is from 0 to 2^64 - 1")
    try:
        shares(dict.fromkeys(list(data)[:per_round], 1), largest_share=largest_share)
    except AggregationError as fault:
        raise ConfigurationError(f"a round cannot be as is asked for: {fault}") from fault


@contextmanager
def _of(owner: str) -> Iterator[None]:
    """Says at which owner's a fault came up."""
    try:
        yield
    except (DataSetError, PlanError, TrainingError) as fault:
        raise type(fault)(f"owner {owner!r}: {fault}") from fault


def _printed() -> Callable[[Round], None]:
    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        return lambda done: console.print(str(done), highlight=False, markup=False, soft_wrap=True)
    return lambda done: None
