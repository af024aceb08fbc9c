"""An optimizer as it travels: by name and numbers, and the ranges that these may have.

``cloister.worker.optimizers`` says what they mean; what may be left out has PyTorch's values. Whoever declares or reads
one asks ``faults``, so that the ranges stand here only. NaN passes none of the comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from cloister.wire.tensors import Size


class _Declared(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    pass


class StepDecay(_Declared, tag="step-decay", frozen=True):
    """The learning rate is multiplied by ``factor`` after every ``every`` steps."""

    every: Size
    factor: float = 0.1

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        if self.every < 1:
            yield f"every is {self.every}, and must be at least 1"
        if not 0 <= self.factor <= 1:
            yield f"factor is {self.factor:g}, and must be from 0 to 1"


class CosineDecay(_Declared, tag="cosine-decay", frozen=True):
    """The learning rate follows half a cosine down to ``lowest`` within ``steps``, and stays there."""

    steps: Size
    lowest: float = 0.0

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        if self.steps < 1:
            yield f"steps is {self.steps}, and must be at least 1"
        if not 0 <= self.lowest < math.inf:
            yield f"lowest is {self.lowest:g}, and must be finite and at least 0"


Schedule: TypeAlias = StepDecay | CosineDecay


class _Optimizer(_Declared, frozen=True):
    lr: float
    weight_decay: float = 0.0
    clip_norm: float | None = None
    schedule: Schedule | None = None

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        if not 0 <= self.lr < math.inf:
            yield f"lr is {self.lr:g}, and must be finite and at least 0"
        if not 0 <= self.weight_decay < math.inf:
            yield f"weight_decay is {self.weight_decay:g}, and must be finite and at least 0"
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            yield f"clip_norm is {self.clip_norm:g}, and must be finite and above 0"
        if self.schedule is not None:
            yield from (f"the schedule's {fault}" for fault in self.schedule.faults())


class SGD(_Optimizer, tag="sgd", frozen=True):
    """Stochastic gradient descent."""

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _Optimizer.faults(self)
        if not 0 <= self.momentum < math.inf:
            yield f"momentum is {self.momentum:g}, and must be finite and at least 0"
        if not math.isfinite(self.dampening):
            yield f"dampening is {self.dampening:g}, and must be finite"
        if self.nesterov and not (self.momentum > 0 and self.dampening == 0):
            yield "nesterov needs momentum, and no dampening"


class Adam(_Optimizer, tag="adam", frozen=True):
    """Adam."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def faults(self) -> Iterator[str]:
        """The numbers that are out of range, a phrase each."""
        yield from _Optimizer.faults(self)
        if not all(0 <= beta < 1 for beta in self.betas):
            yield f"betas are {self.betas[0]:g} and {self.betas[1]:g}, and must be from 0 to below 1"
        if not 0 <= self.eps < math.inf:
            yield f"eps is {self.eps:g}, and must be finite and at least 0"


class AdamW(Adam, tag="adamw", frozen=True):
    """Adam with decoupled weight decay."""

    weight_decay: float = 0.01


Optimizer: TypeAlias = SGD | Adam | AdamW
