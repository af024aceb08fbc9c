"""The next model of a job: of the one before, what the strategy remembers, and the mean of a round.

The aggregator computes it, and so does every member that holds the model before and is sent the round's step
(``cloister.aggregation.steps``): they come to the same bits, and the record names them.
"""

from __future__ import annotations

import numpy as np

from cloister.aggregation.steps import step_type
from cloister.aggregation.strategies import State, apply_to_parameters, read
from cloister.aggregation.vectors import Vector
from cloister.charter.jobs import AgreedJob
from cloister.errors import AggregationError, RoundError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job, model_digest
from cloister.ledger.sync import ModelState, Values
from cloister.wire.halves import widened


def next_model(before: ModelState, *, job: Job, agreed: AgreedJob, mean: Vector, done: int) -> ModelState:
    """Applies the mean of a round to the model before it, after ``done`` rounds of the same job: what the strategy of
    another one remembers is not for this one.

    Raises:
        AggregationError: values that are not finite, or a state that is of another strategy.
    """
    rule = read(agreed.strategy)
    model: Vector = np.frombuffer(before.vector, job.layout.dtype)
    state = State.read(before.rounds, before.averages) if done and before.rounds else rule.start(len(model))
    vector, state = apply_to_parameters(rule, model, mean=mean, state=state, buffers=job.regions.buffers)
    return ModelState(model_digest(job, vector), vector.data.cast("B"), state.averages, state.rounds)


def averages_of(agreed: AgreedJob) -> int:
    """The number of vectors that the strategy of a job keeps between rounds."""
    return len(read(agreed.strategy).start(1).averages)


def repeat(step: Values, *, before: ModelState | None, ledger: Ledger, job: Job) -> ModelState:
    """Repeats what the ledger's newest round did, of which this is the step.

    ``before``: the model that is held, and what its strategy remembers.

    Raises:
        RoundError: it cannot be repeated from there, or leads to another model or state than the newest record names.
    """
    newest = ledger.receipts[-1] if ledger.receipts else None
    agreed = None if newest is None else ledger.charter.job(newest.cohort.name)
    if before is None or newest is None or agreed is None or before.digest != newest.cohort.model:
        raise RoundError("the newest record came with a step from a model that is not held here")
    layout = job.layout
    dtype = step_type(layout.dtype, half=agreed.half, averages=averages_of(agreed))
    if dtype is None or len(step) != layout.length * dtype.itemsize or len(before.vector) != layout.nbytes:
        raise RoundError("the newest record came with a step that is not of its job's length")
    mean = widened(np.frombuffer(step, dtype))
    try:
        found = next_model(before, job=job, agreed=agreed, mean=mean, done=ledger.done(newest.cohort.job) - 1)
    except AggregationError as fault:
        raise RoundError(f"the newest record came with a step that leads nowhere: {fault}") from None
    if not found.is_newest(ledger):
        raise RoundError("the newest record came with a step that leads to another model than it released")
    return found
