"""``cloister.simulate``: a federated training of many owners on one machine, for experiments.

A round is that of McMahan et al. 2017, Algorithm 1, with the strategies of ``aggregation.strategies``: some owners are
drawn, each trains the model on its data from the same values, and the strategy applies the mean of their updates, in
which all count the same, or by their rows. Floating-point parameters and buffers take part; other buffers, such as the
number of batches that a normalisation has seen, become those of the first owner that was drawn, by name. The strategy
is for parameters; buffers get the plain mean, since they are statistics, and momentum or an adaptive step could carry a
variance below zero.

A run is a function of its arguments: seeds depend on the run's seed, the round's number and the owner's name, and the
order of every sum on the owners' names and sizes. So a run that is resumed from a checkpoint ends in the same bits.

Owners with equally many rows train together where the plan allows (``groups``), their models stacked; all others train
one by one, which takes longer. What the plan does not learn is shared, and none of this is about it. The two differ in
rounding only, by less than 1e-5 of an update's largest value in a step; unless a value lies within rounding of where a
gradient jumps, as a ReLU's does at 0. Memory holds one owner's update or one group's at a time, so it does not grow
with the number of owners.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import torch
from torch import Tensor, nn

from cloister.aggregation.mean import shares
from cloister.aggregation.strategies import FedAvg, Strategy
from cloister.charter.charter import DELTA, LEAST_MULTIPLIER, MULTIPLIER, UNITS, Noise
from cloister.charter.job_bounds import drawn_faults
from cloister.charter.jobs import PRECISIONS, WEIGHTS, Precision, Sampling, Weights
from cloister.errors import AggregationError, ConfigurationError, DataSetError, PlanError
from cloister.simulation import checkpoint as checkpoints
from cloister.simulation.checkpoint import Progress
from cloister.simulation.rounds import Simulation, at_owner
from cloister.study.clipping import ClippingWatch
from cloister.study.history import History, Round, board
from cloister.study.progress import Screen
from cloister.tensor.held import buffers_of, copied, parameters_of
from cloister.tensor.plan.learned import learned
from cloister.worker.data.batches import Batches
from cloister.worker.data.converted import fitted
from cloister.worker.data.rows import Arrays
from cloister.worker.fitting import check_drawn, check_last, check_numbers, check_whole, columns_of
from cloister.worker.optimizers import Optimizer, check_optimizer
from cloister.worker.plans import Plan, PlannedLoss
from cloister.worker.rows_apart import check_rows_apart

Owner: TypeAlias = Batches | Sequence[Tensor]
"""An owner's data: a data set, or its columns as tensors, such as ``(x, y)``."""

_EXAMPLE: Final = 4
_FEDAVG: Final = FedAvg()
_LESS: Final = (
    "have owners change it less in a round, with a lower learning rate or fewer steps; a larger clip brings more noise"
)
_LARGER: Final = (
    "take a clip above that norm, or have owners change the model less in a round, with a lower learning rate or fewer"
    " steps"
)


@dataclass(frozen=True)
class SimulationRun:
    """The result of ``simulate``: the trained model, the history round by round, and the plan that was trained.

    ``finished`` is False where Ctrl-C ended it before its last round. ``replayed`` says how many owners' trainings were
    replayed one by one, by the reason why they could not be vectorised; it is empty where all of them were.
    """

    model: nn.Module
    history: History
    plan: Plan
    finished: bool
    replayed: Mapping[str, int]

    @property
    def vectorised(self) -> bool:
        """Whether all owners trained in groups, with ``torch.func.vmap``."""
        return not self.replayed


def simulate(
    model: nn.Module,
    loss: PlannedLoss | Plan,
    *,
    owners: Mapping[str, Owner],
    optimizer: Optimizer,
    batch_size: int,
    rounds: int,
    local_epochs: int | None = None,
    steps: int | None = None,
    strategy: Strategy = _FEDAVG,
    weights: Weights = "uniform",
    per_round: int | None = None,
    floor: int | None = None,
    largest_share: float = 1.0,
    clip: float | None = None,
    clip_buffers: float | None = None,
    home_buffers: bool = False,
    noise: Noise | None = None,
    sampling: Sampling | None = None,
    precision: Precision = "full",
    seed: int = 0,
    job: bytes = b"",
    vectorise: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    tensorboard: str | PathLike[str] | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> SimulationRun:
    """Trains a copy of ``model`` in rounds on the owners' data, as federated learning would.

    Ctrl-C ends the run after the last round that was finished, and returns what there is.

    Args:
        loss: a function marked with ``@cloister.plan``, or a plan that it was captured as.
        owners: each owner's data, by its name.
        optimizer: what each owner trains with; it begins anew in each round.
        steps: of each owner in a round, all of ``batch_size`` rows, as in a study: an owner's rows beyond whole batches
            are left out. None: ``local_epochs`` over all its rows (1 unless it is given), the last batch smaller.
        strategy: what becomes of the mean: ``FedAvg``, ``FedAvgM``, ``FedProx``, ``FedAdagrad``, ``FedYogi``,
            ``FedAdam``.
        weights: how much owners count: all the same (``"uniform"``), or by their rows (``"rows"``).
        per_round: how many owners are drawn for each round, without replacement; None is all.
        floor: as a charter's: no update counts for more than the floor-th largest. None: each counts as it is.
        largest_share: the most that one owner may be of the mean.
        clip: the most that the L2 norm of the parameters in an owner's update may be. ``Round.clipping`` tells what
            they were before, and a warning, once, where most updates are clipped in most rounds.
        clip_buffers: the same for its buffers.
        home_buffers: whether each owner keeps its own buffers from round to round, and none are averaged (FedBN). The
            model that comes out has those that it had.
        noise: what is added to each mean, as a charter says it; ``clip`` is needed with it. It comes from the seed: it
            shows what noise costs, and hides nothing.
        sampling: how rows are drawn where noise hides single records: ``clip`` is then of one record's gradient, a
            round is one step of ``optimizer``, which is SGD with a learning rate alone, and ``batch_size`` rows are
            computed at once.
        precision: how updates and the step of a round travel in a study: ``"full"``, or rounded to two bytes a value,
            as ``"bfloat16"`` or ``"float16"``.
        seed: 0 to 2^64 - 1.
        job: the digest of a study's job, to compute what a rehearsal of it does whose nodes have the salts
            ``cloister.testing.studies.rehearsal_salt(seed, owner)``.
        vectorise: whether owners may train in groups, which is fast where they are many and small;
            ``SimulationRun.replayed`` counts those that did not. False replays each on its own, to the bits of
            ``worker.training.train``.
        checkpoint: a file (safetensors) that is written after each round; a run resumes from one that exists.
        tensorboard: a folder that each round is written to as it ends, for TensorBoard to show.
        evaluate: called after each round with the new model in ``eval`` mode; the numbers that it returns stand in the
            history.
        on_round: called after each round, in place of the line that is printed where there is a terminal.

    Raises:
        ConfigurationError: numbers out of range, a checkpoint of another run, or a folder that cannot be written.
        MissingDependencyError: ``tensorboard`` is given, and the package is not installed.
        DataSetError: an owner's data set does not fit the plan; the message names owner and column.
        PlanError: the loss cannot be captured, mixes rows where they are drawn, or fails on the owners' values, or an
            owner's last batch is one row, on which the plan cannot be trained (BatchNorm).
        TrainingError, AggregationError: training led to values that are not finite.
    """
    check_optimizer(optimizer)
    data = _data_sets(owners, loss)
    if sampling is not None and steps is None:
        steps = 1
    if local_epochs is None and steps is None:
        local_epochs = 1
    check_numbers(batch_size, local_epochs, steps, 0.0, clip, clip_buffers)
    if noise is not None or sampling is not None:
        _check_noise(noise, sampling, clip=clip, weights=weights)
    if sampling is not None:
        _check_step(sampling, optimizer, strategy, steps=steps or 0)
    _check(
        data,
        rounds=rounds,
        per_round=per_round,
        floor=floor,
        largest_share=largest_share,
        seed=seed,
        weights=weights,
        precision=precision,
        drawn=sampling is not None,
    )
    trained = copied(model)
    plan = _plan(loss, trained, next(iter(data.values())))
    _check_buffers(plan, noise, clip_buffers=clip_buffers, home_buffers=home_buffers)
    if sampling is not None:
        held = parameters_of(trained), buffers_of(trained)
        check_rows_apart(plan, parameters=held[0], buffers=held[1])
    expected = columns_of(plan)
    for name, each in data.items():
        try:
            data[name] = fitted(each, expected=expected)
            if sampling is not None:
                check_drawn(len(each), rate=sampling.rate, expected=sampling.rows)
            elif steps is None:
                check_last(plan, rows=len(each), batch_size=batch_size)
            else:
                check_whole(len(each), batch_size=batch_size)
        except (DataSetError, PlanError) as fault:
            raise at_owner(name, fault) from fault
    simulation = Simulation(
        trained,
        plan,
        data,
        optimizer,
        batch_size=batch_size,
        local_epochs=local_epochs,
        steps=steps,
        strategy=strategy,
        weights=weights,
        per_round=per_round,
        floor=floor,
        largest_share=largest_share,
        clip=clip,
        clip_buffers=clip_buffers,
        home_buffers=home_buffers,
        noise=noise,
        sampling=sampling,
        precision=precision,
        seed=seed,
        job=job,
        vectorise=vectorise,
    )
    path = None if checkpoint is None else Path(checkpoint)
    tell = Screen() if on_round is None else on_round
    progress, finished = _run(simulation, rounds, path, tensorboard, evaluate, tell)
    simulation.load(progress)
    return SimulationRun(trained, History(progress.rounds), plan, finished, dict(simulation.replayed))


def _run(
    simulation: Simulation,
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
    clipping = ClippingWatch(simulation.clip, remedy=_LARGER if simulation.noise is None else _LESS)
    try:
        with nullcontext() if tensorboard is None else board(tensorboard, rounds=progress.rounds) as show:
            while len(progress.rounds) < rounds:
                progress = simulation.round(progress, evaluate)  # in one step, so that Ctrl-C finds either
                if path:
                    checkpoints.write(path, progress, settings=settings)
                if show:
                    show(progress.rounds[-1])
                clipping.look(progress.rounds)
                on_round(progress.rounds[-1])
    except KeyboardInterrupt:
        return progress, len(progress.rounds) == rounds
    return progress, True


def _plan(loss: PlannedLoss | Plan, model: nn.Module, data: Batches) -> Plan:
    if isinstance(loss, Plan):
        return loss
    example = [
        torch.zeros(_EXAMPLE, *column.row.shape, dtype=getattr(torch, column.row.dtype)) for column in data.schema
    ]
    return loss.capture(model, example=example)


def _data_sets(owners: Mapping[str, Owner], loss: PlannedLoss | Plan) -> dict[str, Batches]:
    """The owners' data sets, in the order of their names."""
    if not isinstance(loss, (PlannedLoss, Plan)):
        raise ConfigurationError("the loss is no plan; write @cloister.plan above the function")
    names: dict[int, list[str]] = {}
    data: dict[str, Batches] = {}
    for name in sorted(owners):
        owner = owners[name]
        if not isinstance(owner, (tuple, list)):
            data[name] = owner  # type: ignore[assignment]  # a Protocol cannot be told from a Sequence
            continue
        if not all(isinstance(column, Tensor) for column in owner):
            raise DataSetError(f"owner {name!r}: the columns of a data set are tensors; torch.as_tensor makes them")
        count = len(owner)
        columns = names.get(count) or names.setdefault(count, _columns(loss, count))
        try:
            data[name] = Arrays(dict(zip(columns, owner, strict=True)))
        except DataSetError as fault:
            raise at_owner(name, fault) from fault
    return data


def _columns(loss: PlannedLoss | Plan, count: int) -> list[str]:
    """The names of columns without names: the arguments of the loss function, if it has one for each."""
    if isinstance(loss, PlannedLoss):
        arguments = list(inspect.signature(loss.function).parameters)[1:]
        if len(arguments) == count:
            return arguments
    return [f"column {at}" for at in range(count)]


def _check_noise(
    noise: Noise | None,
    sampling: Sampling | None,
    *,
    clip: float | None,
    weights: str,
) -> None:
    """A simulation with noise is of what a charter can agree on: the same rules hold."""
    if noise is not None and not isinstance(noise, Noise):
        raise ConfigurationError(
            f"noise is a {type(noise).__name__}; it is a cloister.Noise(unit=, multiplier=, delta=)"
        )
    if noise is not None and noise.unit not in UNITS:
        raise ConfigurationError(f"the unit of noise is {noise.unit!r}; it is one of {', '.join(UNITS)}")
    if noise is None or (sampling is not None) != (noise.unit == "record"):
        raise ConfigurationError('sampling goes with noise whose unit is "record", and is needed there: give both')
    try:
        msgspec.convert(asdict(noise), Noise)
    except msgspec.ValidationError:
        raise ConfigurationError(
            f"there is no such noise as {noise}: its multiplier is above {LEAST_MULTIPLIER} and at most {MULTIPLIER:g},"
            f" and its delta above 0 and at most {DELTA}"
        ) from None
    if clip is None:
        raise ConfigurationError("with noise there is a clip, which it is a multiple of: give one, such as clip=1.0")
    if weights != "uniform":
        raise ConfigurationError("with noise all count the same: leave weights at uniform")


def _check_buffers(plan: Plan, noise: Noise | None, *, clip_buffers: float | None, home_buffers: bool) -> None:
    if home_buffers and clip_buffers is not None:
        raise ConfigurationError("clip_buffers is not for buffers that stay at home (home_buffers): leave one out")
    averaged = not home_buffers and bool(learned(plan.program).buffers)
    if noise is not None and (clip_buffers is not None or averaged):
        raise ConfigurationError(
            "with noise no buffers are averaged: leave clip_buffers out, and have GroupNorm or LayerNorm in the place"
            " of BatchNorm; where noise hides owners, home_buffers=True will do too"
        )


def _check_step(sampling: Sampling, optimizer: Optimizer, strategy: Strategy, *, steps: int) -> None:
    faults = [*drawn_faults(sampling, optimizer.to_wire(), strategy.to_wire(), steps=steps)]
    if faults:
        raise ConfigurationError("; ".join(f"{name}: {text}" for name, text in faults))


def _check(
    data: Mapping[str, Batches],
    *,
    rounds: int,
    per_round: int | None,
    floor: int | None,
    largest_share: float,
    seed: int,
    weights: str,
    precision: str,
    drawn: bool,
) -> None:
    if not data:
        raise ConfigurationError("there are no owners")
    if precision not in PRECISIONS:
        raise ConfigurationError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}")
    if drawn and precision != "full":
        raise ConfigurationError("where rows are drawn, their sums are whole numbers: leave precision at full")
    if weights not in WEIGHTS:
        raise ConfigurationError(f"weights is {weights!r}; it is one of {', '.join(WEIGHTS)}")
    if rounds < 1:
        raise ConfigurationError(f"rounds is {rounds}; it is at least 1")
    if per_round is not None and not 1 <= per_round <= len(data):
        raise ConfigurationError(f"per_round is {per_round}; it is from 1 to the number of owners, {len(data)}")
    if floor is not None and not 1 <= floor <= (per_round or len(data)):
        raise ConfigurationError(f"floor is {floor}; it is from 1 to the number of owners in a round")
    if not 0 <= seed < 1 << 64:
        raise ConfigurationError(f"the seed is {seed}; it is from 0 to 2^64 - 1")
    try:
        shares(dict.fromkeys(list(data)[:per_round], 1), largest_share=largest_share)
    except AggregationError as fault:
        raise ConfigurationError(f"a round cannot be as is asked for: {fault}") from fault
