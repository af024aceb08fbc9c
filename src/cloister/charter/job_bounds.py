"""What nobody may agree on: the bounds of a job's numbers (``cloister.charter.jobs``), each with its reason.

Within them every step of a round counts, each of many rows, so that it does not matter which step the numbers stress.
They were found by trying: with each number that is refused here, one owner's row or update came out of an honest plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from cloister.charter.jobs import AgreedJob, Sampling
from cloister.wire.optimizers import SGD, Adam, CosineDecay, Optimizer
from cloister.wire.strategies import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy

LR: Final = {"SGD": 1.0, "Adam": 0.1, "AdamW": 0.1}
"""The greatest learning rate, unless a charter gives a reason for another one."""
LEAST_LR: Final = {"SGD": 1e-2, "Adam": 1e-6, "AdamW": 1e-6}
"""The least one, likewise; SGD's is that of ``lr`` with what momentum makes of it by the last step, at most
``lr`` / (1 - ``momentum``). With less, the model hardly moves, and two rounds can be subtracted as if on one model:
with 1e-3, two rounds of one job differed, at some unit, by one row, which was on the other side of its ReLU."""
DAMPENING: Final = 0.9
"""With 1, no step after the first would count."""
FADING: Final = 0.1
"""The least learning rate of a round is at least this part of its greatest: else few steps count for all."""
COUNTED_STEPS: Final = 4096
"""More need not be looked at: the last ones have 65,536 rows at least."""
ADAM_STEPS: Final = 8
"""The least steps of a round with Adam at the owners: one step of it is a vector of signs, whatever the rows."""
CLIP_NORM: Final = 1e-3
"""The least norm that an owner's gradients may be clipped to: below it, steps are directions and nothing else."""
BETAS: Final = ((0.0, 0.99), (0.9, 0.9999))
EPS: Final = (1e-10, 1e-2)
SERVER_LR: Final = (0.5, 10.0)
"""Of FedAvg and its like: with a lower one, two rounds start from almost the same model, and can be subtracted. An
owner that is in one of them alone was then told to a seventh. At 1 the models of two rounds differ by what a round
does; how much that still tells, the threat model says ("What a mean still tells")."""
ADAPTIVE_LR: Final = (1e-3, 10.0)
"""Of the adaptive ones, for the same reason; likewise their ``lr`` times 1 - ``beta1`` is at least ``tau``: else they
are FedAvg with a rate of about the quotient."""
_ROUNDING: Final = 1e-9
MOMENTUM: Final = 0.99
TAU: Final = (1e-8, 1.0)
DECAY: Final = 0.5


def faults(job: AgreedJob) -> Iterator[tuple[str, str]]:
    """What nobody may agree on: the place of each number that is out of bounds, and a sentence with the bound."""
    if not job.data.strip() or not job.data.isprintable():
        yield "data", "is no tag of a data set"
    if job.unsafe_lr is not None and not (job.unsafe_lr.strip() and job.unsafe_lr.isprintable()):
        yield "unsafe_lr", "is no reason: write in a sentence why the learning rate is out of its bounds"
    if job.sampling is not None:
        yield from drawn_faults(job.sampling, job.optimizer, job.strategy, steps=job.steps)
        if job.unsafe_lr is not None:
            yield (
                "unsafe_lr",
                "gives a reason for a learning rate, and none is needed where rows are drawn: leave it out",
            )
        if job.half is not None:
            yield (
                "precision",
                f"is {job.precision}, and must be full where rows are drawn: their sums are whole numbers",
            )
        return
    yield from (("optimizer", fault) for fault in _optimizer(job))
    yield from (("strategy", fault) for fault in _strategy(job))


def drawn_faults(
    sampling: Sampling, optimizer: Optimizer, strategy: Strategy, *, steps: int
) -> Iterator[tuple[str, str]]:
    """The same where rows are drawn and noise hides each: no number tells one then, but all have to say what is
    computed, and nothing else."""
    if not (0 < sampling.rate <= 1 and sampling.rows >= 1):
        yield "sampling", "is a rate above 0 and at most 1, and a number of rows of at least 1"
    if steps != 1:
        yield "steps", f"is {steps}, and must be 1 where rows are drawn: one round is one step"
    wrong = [*optimizer.faults()]
    yield from (("optimizer", fault) for fault in wrong)
    if not wrong and not (isinstance(optimizer, SGD) and optimizer.lr > 0 and optimizer == SGD(lr=optimizer.lr)):
        yield (
            "optimizer",
            "must be SGD with a learning rate above 0 and nothing else where rows are drawn: one round is one step of"
            " it, and momentum or Adam are the strategy's, FedAvgM or FedAdam",
        )
    yield from (("strategy", fault) for fault in strategy.faults())
    if isinstance(strategy, FedProx):
        yield "strategy", "is FedProx, which is for several steps of an owner: take FedAvg"


def _optimizer(job: AgreedJob) -> Iterator[str]:
    optimizer, kind = job.optimizer, type(job.optimizer).__name__
    wrong = [*optimizer.faults()]
    yield from wrong
    if wrong:
        return
    if not optimizer.lr > 0:
        yield "lr is 0: owners would contribute nothing"
    pace = optimizer.lr
    if isinstance(optimizer, SGD) and 0 < optimizer.momentum < 1:
        pace *= (1 - optimizer.momentum**job.steps) / (1 - optimizer.momentum)
    if not (LEAST_LR[kind] * (1 - _ROUNDING) <= pace and optimizer.lr <= LR[kind]) and job.unsafe_lr is None:
        part = " (the least with what momentum makes of it)" if kind == "SGD" else ""
        yield (
            f"lr is {optimizer.lr:g}, and must be from {LEAST_LR[kind]:g} to {LR[kind]:g} for {kind}{part}; unsafe_lr"
            " gives a reason for another one"
        )
    if optimizer.weight_decay:
        yield (
            f"weight_decay is {optimizer.weight_decay:g}, and must be 0 at owners, where it would hide how unlike their"
            " contributions are: give the strategy a decay, which is applied once for all"
        )
    if optimizer.clip_norm is not None and optimizer.clip_norm < CLIP_NORM:
        yield f"clip_norm is {optimizer.clip_norm:g}, and must be at least {CLIP_NORM:g}"
    if job.proximal and not isinstance(optimizer, SGD):
        yield f"it is {kind}, and the strategy FedProx: take SGD, with which it is known what each step counts for"
    if optimizer.lr * job.proximal >= 1:
        yield f"lr times the strategy's mu is {optimizer.lr * job.proximal:g}, and must be below 1"
    yield from _schedule(job)
    yield from _sgd(optimizer) if isinstance(optimizer, SGD) else _adam(optimizer, steps=job.steps)


def _schedule(job: AgreedJob) -> Iterator[str]:
    schedule, lr = job.optimizer.schedule, job.optimizer.lr
    if isinstance(schedule, CosineDecay) and schedule.lowest > lr:
        yield f"the schedule's lowest is {schedule.lowest:g}, and must be at most lr, {lr:g}"
        return
    lowest = _rate(job, job.steps - 1)
    if lowest < FADING * lr:
        yield (
            f"the schedule's least learning rate of a round is {lowest:g}, and must be at least a tenth of lr, {lr:g}:"
            " else few steps would count for all"
        )


def _rate(job: AgreedJob, step: int) -> float:
    """The learning rate of a round's step, from 0 on. None is above one before it."""
    schedule, lr = job.optimizer.schedule, job.optimizer.lr
    if schedule is None:
        return lr
    if isinstance(schedule, CosineDecay):
        done = min(step, schedule.steps) / schedule.steps
        return schedule.lowest + (lr - schedule.lowest) * (1 + math.cos(math.pi * done)) / 2
    return float(lr * schedule.factor ** (step // schedule.every))


def rows_that_count(job: AgreedJob) -> float:
    """How many of an owner's rows a round is an average of: (sum of w)^2 / (sum of w^2) times the batch, with w what a
    step's gradient is multiplied by on its way into the update; the effective sample size of L. Kish, "Survey Sampling"
    (1965), section 11.7. With Adam, the second moments are taken as the same in all steps. The last ``COUNTED_STEPS``
    steps stand for all.
    """
    steps = range(job.steps - 1, max(-1, job.steps - 1 - COUNTED_STEPS), -1)
    if isinstance(job.optimizer, SGD):
        weights = [*_weights(job, job.optimizer, steps)]
    else:
        weights = [*_first_moments(job, job.optimizer, steps)]
    squares = sum(weight * weight for weight in weights)
    return sum(weights) ** 2 / squares * job.batch_size if squares else 0.0


def _weights(job: AgreedJob, optimizer: SGD, steps: Sequence[int]) -> Iterator[float]:
    """What each step's gradient is multiplied by, backwards from the last: the derivative of the update by it."""
    by_moved, by_carried = 1.0, 0.0  # by how far the parameters have moved, and by the momentum that is carried on
    for step in steps:
        moved = by_moved * _rate(job, step)
        carried = by_carried + moved * (optimizer.momentum if optimizer.nesterov else 1.0)
        fresh = 1.0 if step == 0 or not optimizer.momentum else 1.0 - optimizer.dampening
        weight = fresh * carried + (moved if optimizer.nesterov else 0.0)
        yield weight
        by_carried = optimizer.momentum * carried
        by_moved -= job.proximal * weight


def _first_moments(job: AgreedJob, optimizer: Adam, steps: Sequence[int]) -> Iterator[float]:
    """The same for Adam, whose steps are means of the gradients so far, the latest first, without the bias of their
    beginning (Kingma and Ba 2015, section 3)."""
    beta, by_carried = optimizer.betas[0], 0.0
    for step in steps:
        by_carried = beta * by_carried + _rate(job, step) / (1 - beta ** (step + 1))
        yield (1 - beta) * by_carried


def _sgd(optimizer: SGD) -> Iterator[str]:
    if not optimizer.momentum < 1:
        yield f"momentum is {optimizer.momentum:g}, and must be from 0 to below 1"
    if not 0 <= optimizer.dampening <= DAMPENING:
        yield f"dampening is {optimizer.dampening:g}, and must be from 0 to {DAMPENING:g}"


def _adam(optimizer: Adam, *, steps: int) -> Iterator[str]:
    for beta, (least, most) in zip(optimizer.betas, BETAS, strict=True):
        if not least <= beta <= most:
            yield f"a beta is {beta:g}, and must be from {least:g} to {most:g}"
    if not EPS[0] <= optimizer.eps <= EPS[1]:
        yield f"eps is {optimizer.eps:g}, and must be from {EPS[0]:g} to {EPS[1]:g}"
    if steps < ADAM_STEPS:
        yield (
            f"it is Adam with {steps} steps of each owner in a round, and must have at least {ADAM_STEPS}: a step of it"
            " is a vector of signs"
        )


def _strategy(job: AgreedJob) -> Iterator[str]:
    strategy = job.strategy
    wrong = [*strategy.faults()]
    yield from wrong
    if wrong:
        return
    least, most = SERVER_LR if isinstance(strategy, FedAvg | FedProx | FedAvgM) else ADAPTIVE_LR
    if not least <= strategy.lr <= most:
        yield f"lr is {strategy.lr:g}, and must be from {least:g} to {most:g} for {type(strategy).__name__}"
    if strategy.decay > DECAY:
        yield f"decay is {strategy.decay:g}, and must be at most {DECAY:g}"
    if isinstance(strategy, FedAvgM):
        if strategy.momentum > MOMENTUM:
            yield f"momentum is {strategy.momentum:g}, and must be at most {MOMENTUM:g}"
    elif not isinstance(strategy, FedAvg | FedProx):
        if strategy.beta1 > MOMENTUM:
            yield f"beta1 is {strategy.beta1:g}, and must be at most {MOMENTUM:g}"
        if not TAU[0] <= strategy.tau <= TAU[1]:
            yield f"tau is {strategy.tau:g}, and must be from {TAU[0]:g} to {TAU[1]:g}"
        pull = strategy.lr * (1 - strategy.beta1)
        if pull < strategy.tau * (1 - _ROUNDING):
            yield (
                f"lr times 1 - beta1 is {pull:g}, and must be at least tau, {strategy.tau:g}: else two rounds start"
                " from almost the same model"
            )
        if isinstance(strategy, FedAdam | FedYogi) and not BETAS[1][0] <= strategy.beta2 <= BETAS[1][1]:
            yield f"beta2 is {strategy.beta2:g}, and must be from {BETAS[1][0]:g} to {BETAS[1][1]:g}"
