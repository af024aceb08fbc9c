"""What a caller says to have a model trained at a worker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import torch
from torch import nn

from cloister.errors import ConfigurationError, MessageError, NotColocatedError, PlanError
from cloister.tensor.held import buffers_of, parameters_of
from cloister.tensor.plan.plan import Plan
from cloister.tensor.plan.program import Buffer, Parameter
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.session import Location
from cloister.wire import optimizers as wire
from cloister.wire import sessions as m
from cloister.wire.limits import METRICS, SIZE
from cloister.wire.tensors import TensorSpec

_SEEDS: Final = 1 << 64


@runtime_checkable
class Optimizer(Protocol):
    """``cloister.SGD``, ``Adam`` or ``AdamW``."""

    def to_wire(self) -> wire.Optimizer:
        """As it travels."""


@dataclass(frozen=True)
class TrainingReport:
    """The result of a training at a worker.

    ``loss`` and ``metrics`` are means over all that was trained on, each step weighted by its rows; ``losses`` has the
    loss of each step, ``examples`` is the number of rows.
    """

    loss: float
    metrics: Mapping[str, float]
    losses: tuple[float, ...]
    examples: int

    def __repr__(self) -> str:
        others = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items() if name != "loss")
        return f"<TrainingReport: {len(self.losses)} steps on {self.examples} examples, loss {self.loss:.4g}{others}>"


def train(
    plan: Plan,
    *,
    model: nn.Module,
    data: torch.Tensor | Sequence[torch.Tensor],
    at: Location,
    optimizer: Optimizer,
    batch_size: int,
    local_epochs: int,
    seed: int,
    proximal: float,
    clip: float | None,
) -> TrainingReport:
    """See ``Worker.train``."""
    _check_kinds(plan, optimizer)
    columns = (data,) if isinstance(data, torch.Tensor) else tuple(data)
    if not 0 < len(columns) <= METRICS:
        raise ConfigurationError(f"data is 1 to {METRICS} tensors, such as (x, y)")
    parameters = _named("parameter", plan.program.parameters, parameters_of(model, all_names=True))
    buffers = _named("buffer", plan.program.buffers, buffers_of(model, all_names=True))
    held = _ids(parameters, at), _ids(buffers, at), _ids({f"data[{i}]": each for i, each in enumerate(columns)}, at)
    rows = len(columns[0]) if columns[0].dim() else 0
    _whole("batch_size", batch_size, least=1, most=SIZE)
    _whole("local_epochs", local_epochs, least=1, most=SIZE)
    _whole("seed", seed, least=0, most=_SEEDS - 1)
    mu, limit = _finite("proximal", proximal), None if clip is None else _finite("clip", clip)
    losses_there = TensorSpec("float64", (local_epochs * -(-rows // batch_size),))
    there = at.put(torch.frombuffer(bytearray(plan.encode()), dtype=torch.uint8))  # it lives until the answer is here
    question = m.Train(there.id, *held, optimizer.to_wire(), batch_size, local_epochs, seed, mu, limit)
    answer, values = at.ask(question, m.Trained, expected=(losses_there,))
    if "loss" not in answer.metrics:
        raise MessageError(f"{at.id} trained and reports no loss")
    for changed in (*parameters.values(), *buffers.values()):
        torch.autograd.graph.increment_version(changed)  # a graph that saved the old values must not go on
    return TrainingReport(answer.metrics["loss"], answer.metrics, tuple(values[0].tolist()), rows)


def _check_kinds(plan: object, optimizer: object) -> None:
    if not isinstance(plan, Plan):
        raise ConfigurationError("a plan is what capture() makes: plan = loss.capture(model, example=(x, y))")
    if not isinstance(optimizer, Optimizer):
        raise ConfigurationError("the optimizer is declared: cloister.SGD(lr=0.1), cloister.Adam() or cloister.AdamW()")


def _named(
    what: str, wanted: Sequence[Parameter | Buffer], held: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    missing = [each.names[0] for each in wanted if each.names[0] not in held]
    if missing:
        raise PlanError(f"the plan needs the {what} {missing[0]!r}, which this model does not have")
    return {each.names[0]: held[each.names[0]] for each in wanted}


def _ids(tensors: Mapping[str, torch.Tensor], at: Location) -> tuple[int, ...]:
    ids = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, PointerTensor) or tensor.location is not at:
            where = tensor.location.id if isinstance(tensor, PointerTensor) else "here"
            raise NotColocatedError(f"{name} is {where} and not at {at.id}; send() or move() it there")
        ids.append(tensor.remote.id)
    return tuple(ids)


def _whole(name: str, value: object, *, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}; it is a whole number from {least} to {most}")


def _finite(name: str, value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ConfigurationError(f"{name} is {value!r}; it is a finite number")
    return float(value)  # type: ignore[arg-type]
