"""A strategy as it travels: by name and numbers, and the ranges that these may have.

``cloister.aggregation.strategies`` says what they mean. Whoever declares or reads one asks ``faults``, so that the
ranges stand here only. NaN passes none of the comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct


class _Declared(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    lr: float = 1.0
    decay: float = 0.0

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _positive(lr=self.lr)
        yield from _shares(decay=self.decay)


class FedAvg(_Declared, tag="FedAvg", frozen=True):
    """The mean of the contributions, times ``lr``."""


class FedProx(_Declared, tag="FedProx", frozen=True):
    """FedAvg, whose owners are drawn back to where they began."""

    mu: float = 0.0

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _Declared.faults(self)
        if not 0 <= self.mu < math.inf:
            yield f"mu is {self.mu:g}, and must be finite and at least 0"


class FedAvgM(_Declared, tag="FedAvgM", frozen=True):
    """FedAvg with momentum."""

    momentum: float = 0.9

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _Declared.faults(self)
        yield from _shares(momentum=self.momentum)


class FedAdagrad(_Declared, tag="FedAdagrad", frozen=True):
    """Adaptive; squares add up."""

    lr: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _Declared.faults(self)
        yield from _positive(tau=self.tau)
        yield from _shares(beta1=self.beta1)


class _WithAverages(_Declared, frozen=True):
    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _Declared.faults(self)
        yield from _positive(tau=self.tau)
        yield from _shares(beta1=self.beta1, beta2=self.beta2)


class FedYogi(_WithAverages, tag="FedYogi", frozen=True):
    """Adaptive; the average of squares moves slowly."""


class FedAdam(_WithAverages, tag="FedAdam", frozen=True):
    """Adaptive; an exponential average of squares."""


Strategy: TypeAlias = FedAvg | FedProx | FedAvgM | FedAdagrad | FedYogi | FedAdam


def _positive(**numbers: float) -> Iterator[str]:
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            yield f"{name} is {value:g}, and must be finite and above 0"


def _shares(**numbers: float) -> Iterator[str]:
    for name, value in numbers.items():
        if not 0 <= value < 1:
            yield f"{name} is {value:g}, and must be from 0 to below 1"
