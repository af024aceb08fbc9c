"""How surely it is noticed in noisy means whether a record, or an owner, was in them: as an epsilon that they cannot
have.

Sixty-four contributions are tried at once. Each is there or not as a coin falls, is as long as it can be, and lies in a
coordinate of its own, where nothing else has any effect: so each is a trial with two neighbouring data sets. The
attacker knows everything but the coins, the draws and the noise, and says of each whether it was there.

Under (epsilon, delta) a guess is right at most e^epsilon times as often as it is wrong, and delta. So guesses that are
often right and hardly ever wrong show that epsilon is at least log((right - delta) / wrong); both shares are bounded by
what was counted (Clopper and Pearson, 1934). Jagielski, Ullman, Oprea: "Auditing Differentially Private Machine
Learning: How Private is Private SGD?", NeurIPS 2020; Nasr et al.: "Adversary Instantiation: Lower Bounds for
Differentially Private Machine Learning", IEEE S&P 2021; many at once as in Steinke, Nasr, Jagielski: "Privacy Auditing
with One (1) Training Run", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor, nn

import cloister
from cloister.accounting.accountant import Spent, epsilon
from cloister.aggregation import noisy_sum
from cloister.aggregator.bodies import Update
from cloister.aggregator.weighing import Answer, Weighing, weighing_of
from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.ledger.noise import noise_of
from cloister.simulation.noisy import noise_from
from cloister.wire.fixed_point import most_drawn
from cloister.wire.layout import Layout, regions_of
from cloister.wire.optimizers import SGD
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import draw_key
from cloister.worker.plans import Plan
from cloister.worker.record_sums import RecordSums
from tests.support import charters

TRIED: Final = 64
LONG: Final = 10.0
"""A record's gradient, in clips, before it is clipped."""
CLIP: Final = 0.5
LR: Final = 0.25
ROWS: Final = 16
JOB: Final = bytes(32)

Floats = NDArray[np.float64]


@cloister.plan
def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Its gradient is the row."""
    found: Tensor = model(x).mean()
    return found


MODEL: Final = nn.Linear(TRIED, 1, bias=False)
PLAN: Final = loss.capture(MODEL, example=(torch.zeros(4, TRIED),))
LAYOUT: Final[Layout] = deltas.layout_of(deltas.floats_of(MODEL))
REGIONS: Final = regions_of(LAYOUT, buffers=())


@dataclass(frozen=True)
class Noisy:
    """A study with noise: whom it hides, how much there is, and how often something is released."""

    unit: str
    multiplier: float
    rate: float
    rounds: int

    def epsilon(self, *, delta: float) -> float:
        """What owners are told that it costs whoever it hides."""
        noise = noise_of(self.charter.limits, self.job)
        assert noise is not None
        return epsilon([Spent(noise.multiplier, noise.rate, self.rounds)], delta=delta)

    @cached_property
    def charter(self) -> Charter:
        sampling = cloister.Sampling(rate=self.rate, rows=ROWS) if self.unit == "record" else None
        job = charters.agreed_job(PLAN.digest, steps=1 if sampling else 3, optimizer=SGD(LR), sampling=sampling)
        noise = f'{{ unit = "{self.unit}", multiplier = {self.multiplier}, delta = 1e-5 }}'
        model = f'first_model = "{"cd" * 32}"\n'
        return charters.charter(jobs=[job], noise=noise, clip=str(CLIP), largest_share="1.0", limits=model)

    @property
    def job(self) -> AgreedJob:
        return self.charter.jobs[0]

    def answer(self, norm: float) -> Answer:
        """What an owner says of a contribution."""
        return Answer(self.charter.owners[0], 10, (norm, 0.0), {}, b"")

    def weighing(self, layout: Layout, *, seed: int, number: int) -> Weighing:
        """How an instance adds up a round."""
        random, regions = noise_from(seed, number), regions_of(layout, buffers=())
        return weighing_of(self.job, limits=self.charter.limits, layout=layout, regions=regions, random=random)

    def sums_of(self, plan: Plan, model: nn.Module, *, at_once: int = TRIED) -> RecordSums:
        """How an owner adds up its records' gradients."""
        parameters, layout = dict(model.named_parameters()), deltas.layout_of(deltas.floats_of(model))
        return RecordSums(
            plan, parameters=parameters, buffers={}, layout=layout, clip=CLIP, rate=self.rate, at_once=at_once,
            memory_bytes=1 << 28,
        )  # fmt: skip

    @cached_property
    def sums(self) -> RecordSums:
        return self.sums_of(PLAN, MODEL)


class Released(NamedTuple):
    """What an attacker sees, in clips, of shape ``(runs, rounds, TRIED)``; and what it wants to know."""

    seen: Floats
    there: NDArray[np.bool_]


def released(study: Noisy, *, runs: int, seed: int = 0) -> Released:
    """What so many studies release. They differ in who is there, the owner's secret and the noise."""
    chance = np.random.default_rng(seed)
    there = chance.random((runs, TRIED)) < 0.5
    mean = _mean_of_records if study.unit == "record" else _mean_of_owners
    seen = np.empty((runs, study.rounds, TRIED))
    for run in range(runs):
        secret = int(chance.integers(1 << 62))
        for number in range(1, study.rounds + 1):
            seen[run, number - 1] = mean(study, there[run], seed=secret, number=number)
    return Released(seen, there)


def _mean_of_records(study: Noisy, there: NDArray[np.bool_], *, seed: int, number: int) -> Floats:
    """The records are all of one owner."""
    rows = torch.from_numpy(LONG * CLIP * np.diag(there)).float()
    key = draw_key(seed.to_bytes(32, "big"), job=JOB, number=number)
    sums = study.sums.run(Arrays({"x": rows}), key=key, most_rows=most_drawn(TRIED * study.rate)).sums
    weighing = study.weighing(LAYOUT, seed=seed, number=number)
    weighing.begin()
    weighing.add("alice", study.answer(0.0), Update(sums.numpy(), salt=b"", regions=REGIONS))
    return -weighing.mean() * ROWS / LR / CLIP


def _mean_of_owners(study: Noisy, there: NDArray[np.bool_], *, seed: int, number: int) -> Floats:
    """Each is the update of an owner of its own, or zeros."""
    answers = {f"owner {at}": study.answer(CLIP) for at in range(TRIED)}
    weighing = study.weighing(LAYOUT, seed=seed, number=number)
    weighing.weigh(answers)
    weighing.begin()
    for update, (name, answer) in zip((CLIP * np.diag(there)).astype(np.float32), answers.items(), strict=True):
        weighing.add(name, answer, Update(update, salt=b"", regions=REGIONS))
    return weighing.mean() * TRIED / CLIP


@contextmanager
def without_noise() -> Iterator[None]:
    """A study as it would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noisy_sum, "discrete_gaussian", lambda sigma, *, size, random: np.zeros(size, np.int64))
        yield


# What is made of it


class Guess(NamedTuple):
    """To say that a contribution was there where ``score`` is above ``least``: or that it was not, of ``sign`` -1."""

    score: str
    sign: int
    least: float


def least_epsilon(found: Released, *, study: Noisy, delta: float, sure: float = 0.99) -> float:
    """An epsilon that is less than the true one: with this probability, for the counts. One half of the runs shows how
    to guess best, the other how good that is."""
    half = len(found.there) // 2
    usual = np.median(found.seen[:half], axis=0)
    first, second = (
        (scores(found.seen[part], study=study, usual=usual), found.there[part])
        for part in (slice(half), slice(half, None))
    )
    guesses = [
        Guess(score, sign, float(least))
        for score, values in first[0].items()
        for sign in (1, -1)
        for least in np.unique(np.quantile(sign * values, np.linspace(0, 1, 200)))
    ]
    best = max(guesses, key=lambda guess: _least(*first, guess, delta=delta, sure=sure))
    return _least(*second, best, delta=delta, sure=sure)


def scores(seen: Floats, *, study: Noisy, usual: Floats) -> dict[str, Floats]:
    """What speaks for a contribution, of shape ``(runs, TRIED)``: how likely it makes what was seen, which is the best
    there is against noise and draws as they should be; and what would tell of others. ``usual``: what is seen of a
    round, whoever is there."""
    odds = np.exp(np.minimum((2 * seen - 1) / (2 * study.multiplier**2), 500))
    return {
        "likely": np.log(1 + study.rate * (odds - 1)).sum(1),
        "much": seen.sum(1),
        "differing": np.ptp(seen, axis=1),
        "unusual": (seen - usual).max(1),
    }


def _least(values: dict[str, Floats], there: NDArray[np.bool_], guess: Guess, *, delta: float, sure: float) -> float:
    said = guess.sign * values[guess.score] > guess.least
    meant = there if guess.sign == 1 else ~there
    right, wrong = said[meant], said[~meant]
    low = _low(int(right.sum()), len(right), unsure=(1 - sure) / 2)
    high = 1 - _low(int((~wrong).sum()), len(wrong), unsure=(1 - sure) / 2)
    return float(np.log((low - delta) / high)) if low > delta else 0.0


def _low(count: int, of: int, *, unsure: float) -> float:
    """A probability that what was counted is not below, but for a probability of ``unsure``."""
    return float(betaincinv(count, of - count + 1, unsure)) if count else 0.0
