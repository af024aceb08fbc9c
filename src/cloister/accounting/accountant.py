"""The epsilon of everything that was released, from which noise was added how often.

One round releases a sum in which one record (a row, or an owner) changes at most a known length, the sensitivity; its
noise is Gaussian, with a deviation of ``multiplier`` sensitivities. A record is in the sum with the probability
``rate``, by a draw of its own (Poisson sampling). What a round computes may depend on what earlier ones released. Its
noise and its rate may not: where they were chosen after a look at releases, epsilon holds for each choice, and not for
all that might have been made (R. Rogers, A. Roth, J. Ullman and S. Vadhan, "Privacy Odometers and Filters:
Pay-as-you-Go Composition", NeurIPS 2016).

The accountant is dp-accounting's, on privacy loss distributions: V. Doroshenko, B. Ghazi, P. Kamath, R. Kumar and P.
Manurangsi, "Connect the Dots: Tighter Discrete Approximations of Privacy Loss Distributions", PoPETs 2022, Algorithm 1.
It puts losses on a grid in such a way that epsilon is never less than the true one. Here the grid is chosen by what is
counted, as coarse as a thousandth of epsilon or so allows: ten thousand rounds take hundredths of a second, as ten do.

The noise of an enclave is discrete. With a deviation of s >= 2^10 steps of its grid it is, but for a chance of 10^-33
in each coordinate, a continuous one with the variance s^2 - 4 that was rounded at random (C. Peikert, "An Efficient and
Parallel Gaussian Sampler for Lattices", CRYPTO 2010, Theorem 3.1, rounding with a deviation of 2 steps). So it hides at
least what that one does, whose deviation is less by two millionths, and the accountant counts with as much less.
Without sampling both have the same concentrated privacy (C. Canonne, G. Kamath and T. Steinke, "The Discrete Gaussian
for Differential Privacy", NeurIPS 2020, sections 2 and 3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cloister.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

MOST_ROUNDS: Final = 1 << 20
"""The most rounds of one kind that are counted."""

_LEAST_MULTIPLIER: Final = 0.01
"""With less noise than this epsilon is infinite: a single round could make it some thousands."""
_MOST_MULTIPLIER: Final = 1e6
_LEAST_RATE: Final = 1e-9
"""Beyond these two, and nearer to a rate of 1 than that, a setting is counted as the next worse one: what dp-accounting
computes stays within what floats hold."""
_MOST_LOSS: Final = 20_000.0
"""A sum of squared deviations over this is an epsilon over some 10,000, which is called infinite."""
_MOST_EPSILON: Final = 2.0**17
"""None that is looked for is larger."""
_ROUNDED: Final = 1 - 2.0**-18
"""What is left of a discrete Gaussian's deviation once the rounding is taken out: it is at least 1 - 2 / 2^20."""
_ROUNDING: Final = 1e-12
_ROUNDING_OF_ONE: Final = 1e-15
"""What Fourier transforms may have rounded in a delta, and in one of so many rounds: twenty times what was seen."""
_POINTS: Final = 2.0**18
"""The grid of one round has no more points, or twice as many: what is gained by more is not worth the seconds."""
_FINEST: Final = 2.0**-20
"""On a finer grid the differences of probabilities would be made of rounding."""
_TAIL_DEVIATIONS: Final = 10.0
"""Noise further out has a chance of less than e^-50, which dp-accounting adds to delta."""


@dataclass(frozen=True, slots=True)
class Spent:
    """One kind of release, and how often there was one.

    Raises:
        ConfigurationError: a number out of its bounds.
    """

    multiplier: float
    """The noise's standard deviation, in sensitivities: more than 0."""
    rate: float
    """The probability with which a record is in a round: over 0, and 1 where all always are."""
    rounds: int
    """From 0 to ``MOST_ROUNDS``."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.multiplier) and self.multiplier > 0):
            raise ConfigurationError(f"the noise multiplier is {self.multiplier}; it is a number over 0")
        if not 0 < self.rate <= 1:
            raise ConfigurationError(f"the sampling rate is {self.rate}; it is over 0 and at most 1")
        if not 0 <= self.rounds <= MOST_ROUNDS:
            raise ConfigurationError(f"{self.rounds} rounds cannot be counted; they are 0 to {MOST_ROUNDS}")


class _Setting(NamedTuple):
    multiplier: float
    rate: float
    rounds: int

    @property
    def variance(self) -> float:
        """Of one round's privacy loss, about: its chi-squared divergence, or what normal noise of that rate has."""
        inverse = 1 / self.multiplier**2
        return min(self.rate**2 * math.expm1(min(inverse, 700)), self.rate * inverse)

    @property
    def reach(self) -> float:
        """About the largest loss of one round."""
        return 1 / (2 * self.multiplier**2) + _TAIL_DEVIATIONS / self.multiplier


def epsilon(spent: Iterable[Spent], *, delta: float) -> float:
    """The epsilon of all of ``spent`` together, in whatever order: for one record more or less, at this ``delta``.

    It is an upper bound, and for noise that protects within a few thousandths of the true one; 0 for nothing. It is
    infinite where it would be over some 10,000, and where ``delta`` is less than what rounding may hide: 10^-12, and
    10^-15 for each round. Equal counts give the very same number, and are computed once.

    Raises:
        ConfigurationError: a ``delta`` that is not between 0 and 1. MissingDependencyError: dp-accounting is not
            installed.
    """
    if not 0 < delta < 1:
        raise ConfigurationError(f"delta is {delta}; it is a probability, over 0 and below 1")
    counted: Counter[tuple[float, float]] = Counter()
    for each in spent:
        counted[each.multiplier, each.rate] += each.rounds
    return _epsilon(tuple(sorted(_Setting(*pair, rounds) for pair, rounds in counted.items() if rounds)), delta)


@lru_cache(maxsize=4096)
def _epsilon(settings: tuple[_Setting, ...], delta: float) -> float:
    if not settings:
        return 0.0
    if settings[0].multiplier < _LEAST_MULTIPLIER:  # they are sorted
        return math.inf
    merged = _merged(settings)
    certain = delta - _ROUNDING - _ROUNDING_OF_ONE * sum(each.rounds for each in merged)
    if math.fsum(each.rounds * each.variance for each in merged) > _MOST_LOSS or certain <= 0:
        return math.inf
    losses, step = _losses(), _grid(merged)
    whole = _composed(losses, merged[0], step)
    for each in merged[1:]:
        whole = whole.compose(_composed(losses, each, step))
    return _least(whole, certain)


def _merged(settings: Iterable[_Setting]) -> list[_Setting]:
    """The settings within what is counted with; all those without sampling as one round, which is Gaussian again."""
    sampled = [
        _Setting(min(multiplier, _MOST_MULTIPLIER), max(rate, _LEAST_RATE) if rate < 1 - _LEAST_RATE else 1.0, rounds)
        for multiplier, rate, rounds in settings
    ]
    precision = math.fsum(each.rounds / each.multiplier**2 for each in sampled if each.rate == 1)
    whole = [_Setting(1 / math.sqrt(precision), 1.0, 1)] if precision else []
    return [*(each for each in sampled if each.rate < 1), *whole]


def _grid(settings: list[_Setting]) -> float:
    """The distance of two losses on the grid: a power of 2, so that a coarser grid is part of a finer one.

    What a grid adds to one round's variance is at most a sixth of the distance squared. Hence a tenth of a round's
    deviation, of all rounds in the middle, and a hundredth of that of their sum. More noise or fewer rounds of one kind
    never have a coarser grid, and so never a larger epsilon.
    """
    rounds = sum(each.rounds for each in settings)
    deviation = math.sqrt(math.fsum(each.rounds * each.variance for each in settings))
    wanted = min(deviation / math.sqrt(rounds) / 10, deviation / 100)
    step = max(wanted, max(each.reach for each in settings) / _POINTS, _FINEST)
    return math.ldexp(1.0, math.frexp(step)[1] - 1)


def _composed(losses: ModuleType, setting: _Setting, step: float) -> Any:
    once = losses.from_gaussian_mechanism(
        setting.multiplier * _ROUNDED, sampling_prob=setting.rate, value_discretization_interval=step
    )
    return once if setting.rounds == 1 else once.self_compose(setting.rounds)


def _least(whole: Any, delta: float) -> float:
    """The least epsilon at ``delta``, from above: dp-accounting's own search overflows from 709 on."""
    if whole.get_delta_for_epsilon(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while whole.get_delta_for_epsilon(high) > delta:
        low, high = high, 2 * high
        if high > _MOST_EPSILON:
            return math.inf
    while high - low > high * 1e-9:
        middle = (low + high) / 2
        if whole.get_delta_for_epsilon(middle) > delta:
            low = middle
        else:
            high = middle
    return high


def _losses() -> ModuleType:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "the epsilon of noise is computed by dp-accounting, which is not installed: pip install 'cloister[noise]'"
        ) from None
    found: ModuleType = privacy_loss_distribution
    return found
