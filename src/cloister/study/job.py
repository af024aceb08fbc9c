"""A researcher's arguments as a job, and the digests that a charter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cloister.aggregation.strategies import Strategy, numbers_of
from cloister.aggregation.vectors import Vector
from cloister.charter import Charter
from cloister.errors import ConfigurationError, JobError
from cloister.ledger import job as jobs
from cloister.ledger.job import Constant, Job, Part
from cloister.ledger.sync import Values
from cloister.worker import flatten as deltas
from cloister.worker.fitting import check_tensors
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Plan, PlannedLoss
from cloister.worker.values import as_bytes, sendable, spec_of


class Described(NamedTuple):
    """A model as a study knows it."""

    parts: tuple[Part, ...]
    constants: tuple[Constant, ...]
    vector: Vector

    @property
    def digest(self) -> bytes:
        """Its digest, 32 bytes."""
        return jobs.describe(self.parts, self.constants, self.vector)


class Numbers(NamedTuple):
    """A job's content beside its plan and its model."""

    data: str
    optimizer: Optimizer
    batch_size: int
    local_epochs: int
    rounds: int
    strategy: Strategy
    seed: int
    round_s: float


def model_digest(model: nn.Module) -> bytes:
    """The digest of a model, its values included: the ``first_model`` of a charter, 32 bytes.

    Raises:
        MessageError: it holds a tensor of an element type that does not travel.
    """
    return describe(model).digest


def describe(model: nn.Module) -> Described:
    """The model's floating-point parameters and buffers as parts of a vector, and all else as constants.

    Raises:
        MessageError: as ``model_digest``.
    """
    floats = deltas.floats_of(model)
    buffers = dict(model.named_buffers())
    parts = tuple(Part(name, spec_of(floats[name]), name in buffers) for name in sorted(floats))
    others = {name: each for name, each in {**dict(model.named_parameters()), **buffers}.items() if name not in floats}
    constants = tuple(Constant(name, spec_of(others[name]), _bytes_of(others[name])) for name in sorted(others))
    return Described(parts, constants, deltas.flatten(floats, layout=deltas.layout_of(floats)).numpy())


@torch.no_grad()
def load(vector: Values, *, into: nn.Module) -> None:
    """Gives the model the values of a vector with its layout."""
    floats = deltas.floats_of(into)
    layout = deltas.layout_of(floats)
    values = torch.frombuffer(bytearray(vector), dtype=getattr(torch, layout.dtype))
    deltas.unflatten(values, layout=layout, into=floats)


def planned(loss: PlannedLoss | Plan, *, model: nn.Module, example: Sequence[Tensor] | None) -> Plan:
    """The plan of a loss: itself, or captured from an example of a batch.

    Raises:
        ConfigurationError: the loss is no plan, or there is no example to capture it from.
        PlanError: it cannot be captured, or was captured from another model; the message names the tensor.
    """
    if isinstance(loss, Plan):
        check_tensors(loss, dict(model.named_parameters()), dict(model.named_buffers()))
        return loss
    if not isinstance(loss, PlannedLoss):
        raise ConfigurationError("the loss is no plan; write @cloister.plan above the function")
    if example is None:
        raise ConfigurationError(
            "a plan is captured from an example of a batch, and the owners' data is not here: give one, such as"
            " example=(torch.zeros(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)); only shapes and element types"
            " matter"
        )
    return loss.capture(model, example=example)


def make(described: Described, plan: Plan, numbers: Numbers, *, charter: Charter) -> bytes:
    """Makes a job, and encodes it.

    Raises:
        ConfigurationError: numbers out of range.
        JobError: the charter does not allow it; the message says what the charter would have to say.
    """
    _check(numbers)
    _check_plan(plan, charter)
    strategy, rule = numbers_of(numbers.strategy)
    job = Job(
        format=jobs.FORMAT,
        charter=charter.digest,
        plan=plan.encode(),
        parts=described.parts,
        constants=described.constants,
        start=described.digest,
        optimizer=numbers.optimizer.to_wire(),
        batch_size=numbers.batch_size,
        local_epochs=numbers.local_epochs,
        seed=numbers.seed,
        data=numbers.data,
        strategy=strategy,
        numbers=rule,
        rounds=numbers.rounds,
        seconds=float(numbers.round_s),
    )
    data = jobs.encode(job)
    jobs.check(jobs.decode(data), charter=charter)
    return data


def _check(numbers: Numbers) -> None:
    for name in ("batch_size", "local_epochs", "rounds"):
        value = getattr(numbers, name)
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"{name} is {value!r}; it is a whole number of at least 1")
    if not 0 <= numbers.seed < 1 << 64:
        raise ConfigurationError(f"the seed is {numbers.seed}; it is from 0 to 2^64 - 1")


def _check_plan(plan: Plan, charter: Charter) -> None:
    if plan.digest not in charter.limits.plans:
        named = ", ".join(sorted(each.hex() for each in charter.limits.plans)) or "none"
        raise JobError(
            f"this plan is not one of the charter's, so no owner would run it. Its digest is {plan.digest.hex()}; the"
            f" charter names {named}. If it is the plan that was agreed on, it was captured from another model, other"
            " shapes or another version of the function; if it is a new one, it belongs under plans in [limits] of a"
            " charter that all owners sign"
        )


def check_start(start: bytes, *, newest: bytes | None, own: bool) -> None:
    """Checks that a job may start from the model ``start``: the chain's newest, or the charter's first. A job that has
    rounds of its ``own`` in the chain has started already.

    Raises:
        JobError: it may not; the message says what the charter would have to say.
    """
    if own or start == newest:
        return
    raise JobError(
        f"the study goes on from the model {'none' if newest is None else newest.hex()}, and this one is"
        f" {start.hex()}. Before the first round that is first_model in [limits] of the charter (cloister.model_digest"
        " prints it: are the model's first values the same, torch.manual_seed for instance?); afterwards it is what"
        " the newest round released, as run.model has it"
    )


def _bytes_of(tensor: Tensor) -> bytes:
    return bytes(as_bytes(sendable(tensor)))
