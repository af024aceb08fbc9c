"""A researcher's arguments as a job, and the digests that a charter names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

import torch
from msgspec import Struct
from torch import Tensor, nn

from cloister.aggregation.strategies import FedAvg, Strategy
from cloister.aggregation.vectors import Vector
from cloister.charter import Charter, job_bounds, rules
from cloister.charter.charter import Batch
from cloister.charter.jobs import PRECISIONS, WEIGHTS, AgreedJob, Precision, Sampling, Weights
from cloister.charter.names import shown
from cloister.charter.summary import declared
from cloister.errors import ConfigurationError, JobError, PlanError
from cloister.ledger import job as jobs
from cloister.ledger.job import FROZEN_BYTES, Based, Constant, Job, Part, Tensors
from cloister.ledger.sync import Values
from cloister.study.base import Base, written
from cloister.tables import bounds
from cloister.tensor.held import buffers_of, parameters_of
from cloister.tensor.plan.learned import learned
from cloister.wire.layout import FLOATS
from cloister.wire.limits import JOB_BYTES
from cloister.worker import flatten as deltas
from cloister.worker.fitting import check_tensors
from cloister.worker.optimizers import Optimizer, check_optimizer
from cloister.worker.plans import Plan, PlannedLoss, check_plan
from cloister.worker.values import as_bytes, sendable, spec_of

CHARTER_DECIDES: Final = "the charter decides"
"""The reason for any learning rate, in a job that is only held against those of a charter."""
_COMPARED: Final = "plan data rounds batch_size steps optimizer strategy weights sampling precision".split()
_FEDAVG: Final = FedAvg()
_WHOLE_BYTES: Final = JOB_BYTES // 4
"""The constants of a model together that are not of floating point: masks, positions, counters."""


class Described(NamedTuple):
    """A model as a study knows it."""

    tensors: Tensors
    vector: Vector
    """What is learned of it."""

    @property
    def digest(self) -> bytes:
        """Its digest, 32 bytes."""
        return self.tensors.name_of(self.vector)


def model_digest(model: nn.Module, plan: Plan, *, base: Base | None = None, home_buffers: bool = False) -> bytes:
    """The digest of a model, its values included: the ``first_model`` of a charter, 32 bytes.

    Args:
        plan: what learns it.
        base: the files of the charter's ``[[bases]]`` in which its frozen tensors are.
        home_buffers: as in the charter's limits.

    Raises:
        PlanError, ConfigurationError, MessageError: as ``describe``.
    """
    return describe(model, plan, base=base, home_buffers=home_buffers).digest


def describe(model: nn.Module, plan: Plan, *, base: Base | None = None, home_buffers: bool = False) -> Described:
    """A model as a study knows it: what the plan learns as parts of a vector; what it does not, by its place in a base,
    or, where that does not have it, as a constant.

    Raises:
        PlanError: the plan was captured from another model.
        ConfigurationError: frozen tensors that are in no file of the base are too large for constants.
        MessageError: a tensor of an element type that does not travel.
    """
    check_plan(plan)
    parameters, buffers = parameters_of(model), buffers_of(model)
    check_tensors(plan, parameters, buffers)
    found, held = learned(plan.program), {**buffers, **parameters}
    strange = sorted(held.keys() - {name for each in plan.program.held for name in each.names})
    if strange:
        raise PlanError(
            f"the plan was captured from another model, which has no {strange[0]!r}: capture it from this one"
        )
    names = {*found.parameters, *(() if home_buffers else found.buffers)}
    floats = {name: held[name] for name in sorted(names)}
    parts = tuple(Part(name, spec_of(each), name in buffers) for name, each in floats.items())
    others = sorted(each.names[0] for each in plan.program.held if each.names[0] not in names)
    changing = written(plan)  # those that stay at home, and counters
    based, constants = [], []
    for name in others:
        tensor, spec = held[name].detach(), spec_of(held[name])
        place = None if base is None or name in changing else base.find(name, tensor)
        if place is None:
            too_large = spec.nbytes() > (FROZEN_BYTES if spec.dtype in FLOATS else _WHOLE_BYTES)  # refused below
            constants.append(Constant(name, spec, b"" if too_large else _bytes_of(tensor)))
        else:
            based.append(Based(name, spec, name in buffers, *place))
    _check_constants(constants, base)
    tensors = Tensors(parts, tuple(based), tuple(constants))
    return Described(tensors, deltas.flatten(floats, layout=tensors.layout).numpy())


def _check_constants(constants: Sequence[Constant], base: Base | None) -> None:
    floats = [each for each in constants if each.spec.dtype in FLOATS]
    whole = [each for each in constants if each.spec.dtype not in FLOATS]
    for kind, most in ((floats, FROZEN_BYTES), (whole, _WHOLE_BYTES)):
        if sum(each.spec.nbytes() for each in kind) > most:
            _refuse(max(kind, key=lambda each: each.spec.nbytes()), base)


def _refuse(largest: Constant, base: Base | None) -> NoReturn:
    way_out = (
        "its frozen tensors belong into files that owners have: name them with base=cloister.Base(...), of which"
        " `toml` writes the charter's [[bases]]; cloister.write_base writes one"
        if base is None
        else "it is in no file of the base: load the model with the element types of its file (for transformers:"
        ' dtype="auto"); or, where the model makes such tensors by itself, write them to a file of their own with'
        " cloister.write_base(..., beside=base)"
    )
    raise ConfigurationError(
        f"the plan does not learn {largest.name!r}, {largest.spec}, which is too large to travel with a job: {way_out}"
    )


@torch.no_grad()
def load(vector: Values, *, tensors: Tensors, into: nn.Module) -> None:
    """Gives a model what is learned of it: the values of a vector."""
    held = {**parameters_of(into), **buffers_of(into)}
    layout = tensors.layout
    values = torch.frombuffer(bytearray(vector), dtype=getattr(torch, layout.dtype))
    deltas.unflatten(values, layout=layout, into={place.name: held[place.name] for place in layout.places})


def planned(loss: PlannedLoss | Plan, *, model: nn.Module, example: Sequence[Tensor] | None) -> Plan:
    """The plan of a loss: itself, or captured from an example of a batch.

    Raises:
        ConfigurationError: the loss is no plan, or there is no example to capture it from.
        PlanError: it cannot be captured, or was captured from another model; the message names the tensor.
    """
    if isinstance(loss, Plan):
        check_tensors(loss, parameters_of(model), buffers_of(model))
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


def job(
    name: str,
    plan: Plan,
    *,
    data: str,
    optimizer: Optimizer,
    batch_size: int,
    steps: int,
    rounds: int,
    strategy: Strategy = _FEDAVG,
    weights: Weights = "uniform",
    sampling: Sampling | None = None,
    precision: Precision = "full",
    max_s: int = 3600,
    unsafe_lr: str | None = None,
) -> AgreedJob:
    """A job as a charter has it; ``print(cloister.job_toml(job))`` shows its table for charter.toml.

    Args:
        data: the tag of the data sets that owners train on, such as ``"#mri"``.
        batch_size: the rows of every owner in every step.
        steps: of every owner in a round; ``cloister study plan`` makes them of epochs.
        weights: how much owners count: ``"uniform"`` or ``"rows"``.
        sampling: how rows are drawn, for a charter whose noise hides single records: then ``steps`` is 1, the optimizer
            is SGD with a learning rate alone, and ``batch_size`` is how many rows are computed at once.
        precision: how values travel: ``"full"``, or rounded to two bytes each, as ``"bfloat16"`` or ``"float16"``.
        max_s: the time that owners have for one round, in seconds.
        unsafe_lr: the reason for a learning rate out of its bounds.

    Raises:
        ConfigurationError: a number that nobody may agree on; the message lists each with its bound.
    """
    check_plan(plan)
    check_optimizer(optimizer)
    for what, value in {"batch_size": batch_size, "steps": steps, "rounds": rounds, "max_s": max_s}.items():
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"{what} is {value!r}; it is a whole number of at least 1")
    found = AgreedJob(
        name=name,
        plan=plan.digest,
        data=data,
        rounds=rounds,
        batch_size=batch_size,
        steps=steps,
        optimizer=optimizer.to_wire(),
        strategy=strategy.to_wire(),
        weights=weights,
        max_s=max_s,
        unsafe_lr=unsafe_lr,
        sampling=sampling,
        precision=precision,
    )
    faults = [f"{key}: {fault}" for key, fault in _faults(found)]
    if faults:
        raise ConfigurationError("nobody may agree on such a job: " + "; ".join(faults))
    return found


def _faults(job: AgreedJob) -> Iterator[tuple[str, str]]:
    """What no charter allows, whatever its own limits."""
    yield from job_bounds.faults(job)
    least = bounds(Batch)["least"]
    if job.sampling is None and job.batch_size < least:
        yield "batch_size", f"is {job.batch_size}, and must be at least {least}: the least min_batch of any charter"
    if job.weights not in WEIGHTS:
        yield "weights", f"is {job.weights!r}, and must be one of {', '.join(WEIGHTS)}"
    if job.precision not in PRECISIONS:
        yield "precision", f"is {job.precision!r}, and must be one of {', '.join(PRECISIONS)}"
    if job.unsafe_lr != CHARTER_DECIDES:
        yield from rules.needless_reason(job)


def make(described: Described, plan: Plan, wanted: AgreedJob, *, charter: Charter) -> bytes:
    """Makes the charter's job that computes what is ``wanted``, and encodes it.

    Raises:
        JobError: the charter has none; the message says what differs from the one that is nearest.
    """
    made = Job(
        format=jobs.FORMAT,
        charter=charter.digest,
        name=_agreed(wanted, charter).name,
        plan=plan.encode(),
        tensors=described.tensors,
        start=described.digest,
    )
    jobs.agreed(made, charter=charter)
    return jobs.encode(made)


def _agreed(wanted: AgreedJob, charter: Charter) -> AgreedJob:
    differing = {job.name: _differing(wanted, job) for job in charter.jobs}
    for job in charter.jobs:
        if not differing[job.name]:
            return job
    same_plan = [job.name for job in charter.jobs if job.plan == wanted.plan]
    if not same_plan:
        named = ", ".join(sorted({job.plan.hex() for job in charter.jobs})) or "none"
        raise JobError(
            f"no job of the charter has this plan, so no owner would run it. Its digest is {wanted.plan.hex()}; the"
            f" charter names {named}. If it is the plan that was agreed on, it was captured from another model, other"
            " shapes or element types, or another version of the function; if it is a new one, it belongs under"
            " [[jobs]] of a charter that all owners sign"
        )
    nearest = min(same_plan, key=lambda name: len(differing[name]))
    raise JobError(
        "this is not a job that the owners have signed. It differs from the charter's job"
        f" {shown(nearest)!r} in {'; '.join(differing[nearest])}. Call fit with the charter's numbers, or have all"
        " owners sign a charter with yours"
    )


def _differing(wanted: AgreedJob, job: AgreedJob) -> list[str]:
    """What a round's outcome depends on, and is not the same: a phrase each."""
    found = []
    for name in _COMPARED:
        here, there = getattr(wanted, name), getattr(job, name)
        if here != there:
            told = [declared(each) if isinstance(each, Struct) else repr(each) for each in (here, there)]
            found.append(f"{name} ({told[0]}; the charter has {told[1]})")
    return found


def check_start(start: bytes, *, newest: bytes | None, own: bool, drawn: bool = False) -> None:
    """Checks that a job may start from the model ``start``: the chain's newest, or the charter's first. A job that has
    rounds of its ``own`` in the chain has started already. ``drawn``: whether the charter has a recipe for the first.

    Raises:
        JobError: it may not; the message says what the charter would have to say.
    """
    if own or start == newest:
        return
    hint = (
        "which its recipe draws: start from cloister.draw_first_model(model, charter)"
        if drawn
        else "(cloister.model_digest prints it: are the model's first values the same, torch.manual_seed for instance?)"
    )
    raise JobError(
        f"the study goes on from the model {'none' if newest is None else newest.hex()}, and this one is"
        f" {start.hex()}. Before the first round that is first_model in [limits] of the charter, {hint}; afterwards it"
        " is what the newest round released, as run.model has it"
    )


def _bytes_of(tensor: Tensor) -> bytes:
    return bytes(as_bytes(sendable(tensor)))
