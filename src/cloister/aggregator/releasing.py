"""What a round comes to: its cohort, the outcome, and the record that releases it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.steps import step_of, step_type
from cloister.aggregator.runs import Run
from cloister.aggregator.training import Training
from cloister.aggregator.weighing import Answer
from cloister.errors import RoundError
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.next_model import averages_of, next_model
from cloister.ledger.noise import noise_of
from cloister.ledger.records import Cohort, RoundRecord, Share
from cloister.ledger.sync import ModelState, Values
from cloister.wire.rounds import MemberSignature


@dataclass(frozen=True)
class Outcome:
    """The values that a round would release, and the salt that hides them from the owners that commit them."""

    model: ModelState
    metrics: dict[str, float]
    salt: bytes
    step: Values | None = None
    """The mean that the model came of, as it travels to those that hold the one before; None where it is no shorter."""

    @property
    def digest(self) -> bytes:
        """The commitment to it, which owners sign."""
        return records.outcome_digest(
            self.salt, model=self.model.digest, state=self.model.state_digest, metrics=self.metrics
        )


def compute(
    run: Run, *, before: ModelState, mean: NDArray[np.float64], done: int, metrics: dict[str, float], salt: bytes
) -> Outcome:
    """Applies the mean of the contributions to the model, after ``done`` rounds of the job. ``mean`` is rounded in
    place to the step that travels, where one does.

    Raises:
        AggregationError: values that are not finite.
    """
    agreed, step = run.agreed, None
    dtype = step_type(run.layout.dtype, half=agreed.half, averages=averages_of(agreed))
    if dtype is not None:
        step = step_of(mean, dtype=dtype, half=agreed.half, job=run.digest, number=done + 1).data.cast("B")
    after = next_model(before, job=run.job, agreed=agreed, mean=mean, done=done)
    return Outcome(after, metrics, salt, step)


def shares_of(answers: Mapping[str, Answer], *, weights: Mapping[str, float]) -> tuple[Share, ...]:
    """The members of a cohort, in the order of their fingerprints."""
    found = (Share(each.member.key, weights[name], each.commitment) for name, each in answers.items())
    return tuple(sorted(found, key=lambda share: share.member))


def cohort_of(training: Training, *, run: Run, ledger: Ledger, signer: bytes, shares: tuple[Share, ...]) -> Cohort:
    """Makes the cohort that the members of a round consent to. Its place is after the ledger's newest record.

    Raises:
        RoundError: there is no model that the round could start from.
    """
    if ledger.model is None:
        raise RoundError("there is no model to start from")
    return Cohort(
        format="cloister cohort 4",
        charter=ledger.charter.digest,
        sequence=ledger.sequence + 1,
        previous=ledger.head,
        signer=signer,
        round=training.number,
        job=run.digest,
        name=run.job.name,
        digest=training.digest,
        model=ledger.model,
        shares=shares,
        noise=noise_of(ledger.charter.limits, run.agreed),
    )


def record_of(
    cohort: bytes,
    outcome: Outcome,
    *,
    consents: tuple[MemberSignature, ...],
    commits: tuple[MemberSignature, ...],
    time: int,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """Makes the record that releases a round. ``time``: milliseconds since 1970-01-01 UTC."""
    record = RoundRecord(
        cohort=cohort,
        salt=outcome.salt,
        model=outcome.model.digest,
        state=outcome.model.state_digest,
        metrics=outcome.metrics,
        consents=consents,
        commits=commits,
        time=time,
        signature=b"",
    )
    return records.encode(msgspec.structs.replace(record, signature=sign(records.to_be_signed(record))))
