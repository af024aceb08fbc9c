"""An optimizer as it travels: by name and numbers. ``cloister.worker.optimizers`` says what they mean."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from cloister.wire.tensors import Size


class _Declared(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    pass


class StepDecay(_Declared, tag="step-decay", frozen=True):
    """The learning rate is multiplied by ``factor`` after every ``every`` steps."""

    every: Size
    factor: float


class CosineDecay(_Declared, tag="cosine-decay", frozen=True):
    """The learning rate follows half a cosine down to ``lowest`` within ``steps``."""

    steps: Size
    lowest: float


Schedule: TypeAlias = StepDecay | CosineDecay


class SGD(_Declared, tag="sgd", frozen=True):
    """Stochastic gradient descent."""

    lr: float
    weight_decay: float
    clip_norm: float | None
    schedule: Schedule | None
    momentum: float
    dampening: float
    nesterov: bool


class Adam(_Declared, tag="adam", frozen=True):
    """Adam."""

    lr: float
    weight_decay: float
    clip_norm: float | None
    schedule: Schedule | None
    betas: tuple[float, float]
    eps: float
    amsgrad: bool


class AdamW(Adam, tag="adamw", frozen=True):
    """Adam with decoupled weight decay."""


Optimizer: TypeAlias = SGD | Adam | AdamW
