"""Whether a plan, a model's tensors, a data set and the numbers of a training fit together: found before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cloister.charter.jobs import FEWEST_BATCHES
from cloister.errors import ConfigurationError, DataSetError, PlanError
from cloister.tensor.geometry import DTYPES
from cloister.tensor.plan.program import Buffer, Parameter
from cloister.wire.tensors import TensorSpec
from cloister.worker import flatten as deltas
from cloister.worker.data.batches import Batches, batches_in, check_batch_size
from cloister.worker.data.schema import Column, check_schema
from cloister.worker.plans import Plan


def check_fits(plan: Plan, data: Batches, *, batch_size: int | None = None) -> None:
    """Whether a plan can be trained on a data set; with a ``batch_size``, also if that leaves a last batch of one row.

    Raises:
        DataSetError: it cannot; the message names the columns.
        PlanError: it cannot be trained on one row, which is left.
    """
    check_schema(data.schema, expected=columns_of(plan))
    if batch_size is not None:
        check_last(plan, rows=len(data), batch_size=batch_size)


def check_last(plan: Plan, *, rows: int, batch_size: int) -> None:
    """Whether a plan can be trained on the one row that may be left for the last batch of an epoch.

    Raises:
        ConfigurationError: no batch size.
        PlanError: it cannot.
    """
    check_batch_size(batch_size)
    if rows % batch_size == 1:
        prepare(plan, rows=rows, batch_size=batch_size, device=torch.device("cpu"))


def columns_of(plan: Plan) -> list[Column]:
    """The columns that a plan takes."""
    return [Column(each.name, TensorSpec(each.dtype, each.row)) for each in plan.program.batch]


def prepare(plan: Plan, *, rows: int, batch_size: int, device: torch.device) -> int:
    """Makes the plan ready for the batches of so many rows; the memory that the largest step takes, in bytes.

    Raises:
        ConfigurationError: no batch size.
        PlanError: the plan does not fit such batches.
    """
    check_batch_size(batch_size)
    largest = min(batch_size, rows)
    peak = plan.replay(largest, device).peak
    last = rows - (batches_in(rows, batch_size=batch_size) - 1) * batch_size
    try:
        plan.replay(last, device)
    except PlanError as fault:
        few = "one row" if last == 1 else f"{last} rows"
        raise PlanError(
            f"{rows} rows in batches of {batch_size} leave {few} for the last batch of an epoch; "
            f"choose another batch size, for which the plan can be run ({fault})"
        ) from None
    return peak


def check_tensors(plan: Plan, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Refuses parameters and buffers that are not the plan's.

    Raises:
        ConfigurationError: there are no parameters.
        PlanError: one of them is missing, or of another element type or shape.
    """
    if not parameters:
        raise ConfigurationError("there are no parameters to train")
    for held in plan.program.parameters:
        _check_held("parameter", held, parameters)
    for buffer in plan.program.buffers:
        _check_held("buffer", buffer, buffers)


def _check_held(what: str, held: Parameter | Buffer, among: Mapping[str, Tensor]) -> None:
    given = among.get(held.names[0])
    if given is None or given.dtype is not DTYPES[held.dtype] or given.shape != held.shape:
        expected = TensorSpec(held.dtype, held.shape)
        found = "" if given is None else f"; what it was given is {given.dtype} {list(given.shape)}"
        raise PlanError(f"the plan needs the {what} {held.names[0]!r}, {expected}{found}")


def check_whole(rows: int, *, batch_size: int) -> None:
    """Whether a data set has rows for whole batches.

    Raises:
        DataSetError: it has fewer than two: each step would be of the same rows.
    """
    if rows < FEWEST_BATCHES * batch_size:
        raise DataSetError(
            f"the data set has fewer rows than {FEWEST_BATCHES} batches of {batch_size}, which a contribution is of at"
            " least"
        )


def check_drawn(rows: int, *, rate: float, expected: int) -> None:
    """Whether rows are drawn from no larger a data set than a job is for, in which ``expected`` are of all owners.

    Raises:
        DataSetError: it is larger: its sum alone could be longer than that of all owners.
    """
    if rows * rate > expected:
        raise DataSetError(
            f"the data set has more rows than the job is for: at the rate {rate:g} it expects {expected} of all owners"
            " together, and more would be drawn here alone; rows is about rate times the rows of all owners"
        )


def check_numbers(
    batch_size: int, local_epochs: int | None, steps: int | None, proximal: float, *clips: float | None
) -> None:
    """Refuses numbers that a training cannot have.

    Raises:
        ConfigurationError: it says which.
    """
    check_batch_size(batch_size)
    if (local_epochs is None) == (steps is None):
        raise ConfigurationError("a training is of so many steps, or of so many local_epochs: give one of the two")
    for name, value in (("local_epochs", local_epochs), ("steps", steps)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} is {value}; it is at least 1")
    if not (math.isfinite(proximal) and proximal >= 0):
        raise ConfigurationError(f"proximal is {proximal}; it is a number of at least 0")
    for clip in clips:
        if clip is not None and not (math.isfinite(clip) and clip >= deltas.SMALLEST_NORM):
            raise ConfigurationError(f"clip is {clip}; it is a norm of at least {deltas.SMALLEST_NORM}")
