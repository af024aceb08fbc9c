"""Optimizers by name and numbers, as a plan's caller declares them; ``torch.optim`` runs them beside the plan.

A plan holds no optimizer: a captured update would freeze step counters, schedules and bias correction at their first
values.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from cloister.errors import ConfigurationError
from cloister.wire import optimizers as wire


@dataclass(frozen=True, kw_only=True)
class StepDecay:
    """The learning rate is multiplied by ``factor`` after every ``every`` steps."""

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _whole("every", self.every)
        _numbers(factor=self.factor)
        _check(self.to_wire())

    def to_wire(self) -> wire.StepDecay:
        """As it travels."""
        return wire.StepDecay(self.every, float(self.factor))

    def over(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, self.every, self.factor)


@dataclass(frozen=True, kw_only=True)
class CosineDecay:
    """The learning rate follows half a cosine down to ``lowest`` within ``steps`` (Loshchilov and Hutter 2017), and
    stays there."""

    steps: int
    lowest: float = 0.0

    def __post_init__(self) -> None:
        _whole("steps", self.steps)
        _numbers(lowest=self.lowest)
        _check(self.to_wire())

    def to_wire(self) -> wire.CosineDecay:
        """As it travels."""
        return wire.CosineDecay(self.steps, float(self.lowest))

    def over(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        (first,) = {group["lr"] for group in optimizer.param_groups}

        def part(step: int) -> float:
            # PyTorch's CosineAnnealingLR would rise again after its steps.
            done = min(step, self.steps) / self.steps
            rate = self.lowest + (first - self.lowest) * (1 + math.cos(math.pi * done)) / 2
            return float(rate / first) if first else 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, part)


Schedule: TypeAlias = StepDecay | CosineDecay


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """What every optimizer has.

    ``clip_norm`` bounds the L2 norm of all gradients together; ``schedule`` changes the learning rate at each
    step.
    """

    lr: float
    weight_decay: float = 0.0
    clip_norm: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _numbers(
            lr=self.lr,
            weight_decay=self.weight_decay,
            **{} if self.clip_norm is None else {"clip_norm": self.clip_norm},
        )
        if self.schedule is not None and not isinstance(self.schedule, (StepDecay, CosineDecay)):
            raise ConfigurationError("schedule must be a StepDecay or a CosineDecay")
        self._check_own()
        _check(self.to_wire())

    def _check_own(self) -> None:
        """Checks the types of what this kind of optimizer has of its own."""

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The ``torch.optim`` optimizer."""
        raise NotImplementedError

    def to_wire(self) -> wire.Optimizer:
        """As it travels; ``read`` reverses it."""
        raise NotImplementedError

    @property
    def tensors_kept(self) -> int:
        """How many tensors of each parameter's size it keeps from step to step."""
        raise NotImplementedError

    def _shared(self) -> tuple[float, float, float | None, wire.Schedule | None]:
        clip_norm = None if self.clip_norm is None else float(self.clip_norm)
        return float(self.lr), float(self.weight_decay), clip_norm, self.schedule.to_wire() if self.schedule else None

    def over(self, parameters: Mapping[str, nn.Parameter], *, stacked: bool = False) -> Update:
        """This optimizer at work on parameters, by name; those of many models in one, along a first dimension, if
        they are ``stacked``."""
        return Update(self, parameters, stacked=stacked)


@dataclass(frozen=True, kw_only=True)
class SGD(_Declared):
    """Stochastic gradient descent, with momentum where it is not 0; the numbers are those of ``torch.optim.SGD``."""

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def _check_own(self) -> None:
        _numbers(momentum=self.momentum, dampening=self.dampening)

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The ``torch.optim`` optimizer."""
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, self.dampening, self.weight_decay, nesterov=self.nesterov
        )

    def to_wire(self) -> wire.SGD:
        """As it travels; ``read`` reverses it."""
        return wire.SGD(*self._shared(), float(self.momentum), float(self.dampening), bool(self.nesterov))

    @property
    def tensors_kept(self) -> int:
        """The momentum."""
        return 1 if self.momentum else 0


@dataclass(frozen=True, kw_only=True)
class Adam(_Declared):
    """Adam (Kingma and Ba 2015); the numbers are those of ``torch.optim.Adam``."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def _check_own(self) -> None:
        if type(self.betas) is not tuple or len(self.betas) != 2:
            raise ConfigurationError("betas must be two numbers")
        for beta in self.betas:
            _numbers(betas=beta)
        _numbers(eps=self.eps)

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The ``torch.optim`` optimizer."""
        return torch.optim.Adam(parameters, self.lr, self.betas, self.eps, self.weight_decay, self.amsgrad)

    def to_wire(self) -> wire.Adam:
        """As it travels; ``read`` reverses it."""
        first, second = self.betas
        return wire.Adam(*self._shared(), (float(first), float(second)), float(self.eps), bool(self.amsgrad))

    @property
    def tensors_kept(self) -> int:
        """Both moments, and the largest second one where it counts."""
        return 3 if self.amsgrad else 2


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); the numbers are those of ``torch.optim.AdamW``."""

    weight_decay: float = 1e-2

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The ``torch.optim`` optimizer."""
        return torch.optim.AdamW(parameters, self.lr, self.betas, self.eps, self.weight_decay, self.amsgrad)

    def to_wire(self) -> wire.AdamW:
        """As it travels; ``read`` reverses it."""
        as_adam = super().to_wire()
        return wire.AdamW(*(getattr(as_adam, name) for name in as_adam.__struct_fields__))


Optimizer: TypeAlias = SGD | Adam | AdamW
_KINDS: Final = {kind.__name__: kind for kind in (SGD, Adam, AdamW)}


def check_optimizer(optimizer: object) -> None:
    """Refuses what is no optimizer of these.

    Raises:
        ConfigurationError: the message says what to write.
    """
    if isinstance(optimizer, Optimizer):
        return
    name = type(optimizer).__name__
    what = "torch.optim's" if isinstance(optimizer, torch.optim.Optimizer) else f"a {name}"
    wanted = " or ".join(f"cloister.{each}(lr=...)" for each in ([name] if name in _KINDS else _KINDS))
    raise ConfigurationError(f"the optimizer is {what}; write {wanted}")


_READ: Final[dict[type, type]] = {
    wire.SGD: SGD,
    wire.Adam: Adam,
    wire.AdamW: AdamW,
    wire.StepDecay: StepDecay,
    wire.CosineDecay: CosineDecay,
}


def read(to_wire: wire.Optimizer) -> Optimizer:
    """The optimizer that was declared elsewhere.

    Raises:
        ConfigurationError: numbers out of range.
    """
    numbers = {name: getattr(to_wire, name) for name in to_wire.__struct_fields__}
    schedule = numbers["schedule"]
    if schedule is not None:
        numbers["schedule"] = _READ[type(schedule)](
            **{name: getattr(schedule, name) for name in schedule.__struct_fields__}
        )
    found: Optimizer = _READ[type(to_wire)](**numbers)
    return found


class Update:
    """An optimizer at work: its state, its schedule, and the parameters that it changes in place.

    Every optimizer here works element by element, so that one does for many models whose parameters are ``stacked``.
    Only clipping looks at a model's gradients together; it is done for each model then.
    """

    def __init__(self, declared: _Declared, parameters: Mapping[str, nn.Parameter], *, stacked: bool = False) -> None:
        self._declared = declared
        self._parameters = dict(parameters)
        self._clip = _clip_each if stacked else nn.utils.clip_grad_norm_
        self._begin()

    def _begin(self) -> None:
        self.optimizer = self._declared.make(list(self._parameters.values()))
        self._schedule = None if self._declared.schedule is None else self._declared.schedule.over(self.optimizer)

    def restart(self) -> None:
        """Forgets all steps; the parameters stay as they are."""
        if self._schedule is None:
            self.optimizer.state.clear()  # all that steps leave behind; making another takes longer than a small step
        else:
            self._begin()

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One update of the parameters. The gradients are given up: clipping scales them in place."""
        for name, parameter in self._parameters.items():
            parameter.grad = gradients.get(name)
        if self._declared.clip_norm is not None:
            self._clip(self._parameters.values(), self._declared.clip_norm)
        self.optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        for parameter in self._parameters.values():
            parameter.grad = None


@torch.no_grad()
def _clip_each(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """``clip_grad_norm_`` for each of the models whose parameters are stacked."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    if not gradients:
        return
    norms = torch.stack([torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients])
    scales = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for each in gradients:
        each.mul_(scales.view(-1, *[1] * (each.dim() - 1)))


def _check(declared: wire.Optimizer | wire.Schedule) -> None:
    faults = list(declared.faults())
    if faults:
        raise ConfigurationError("; ".join(faults))


def _numbers(**values: Any) -> None:
    for name, value in values.items():
        # isfinite refuses a huge int itself
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise ConfigurationError(f"{name} must be a finite number, not {value!r:.40}")


def _whole(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, not {value!r}")
