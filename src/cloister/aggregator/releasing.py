"""The end of a round: the outcome, the cohort that members sign for it, and the record that releases it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from cloister.aggregation.strategies import State, apply_to_parameters
from cloister.aggregation.vectors import Vector
from cloister.aggregator.collection import Answer
from cloister.aggregator.runs import Run
from cloister.aggregator.training import Training
from cloister.charter import keys
from cloister.errors import CharterError, RoundError
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.job import model_digest
from cloister.ledger.records import Cohort, MemberSignature, RoundRecord, Share
from cloister.ledger.sync import ModelState
from cloister.wire.peers import fingerprint
from cloister.wire.rounds import Signature


@dataclass(frozen=True)
class Outcome:
    """The values that a round would release, and the salt that hides them from the members that sign."""

    model: ModelState
    metrics: dict[str, float]
    salt: bytes

    @property
    def digest(self) -> bytes:
        """The commitment to it, which members sign."""
        return records.outcome_digest(
            self.salt, model=self.model.digest, state=self.model.state_digest, metrics=self.metrics
        )


def compute(run: Run, *, before: ModelState, mean: Vector, metrics: dict[str, float], salt: bytes) -> Outcome:
    """Applies the mean of the contributions to the model.

    Raises:
        AggregationError: values that are not finite.
    """
    model: Vector = np.frombuffer(before.vector, run.layout.dtype)
    state = State.read(before.rounds, before.averages) if before.rounds else run.rule.start(len(model))
    vector, state = apply_to_parameters(run.rule, model, mean=mean, state=state, buffers=run.regions.buffers)
    after = ModelState(model_digest(run.job, vector), vector.data.cast("B"), state.averages, state.rounds)
    return Outcome(after, metrics, salt)


def shares_of(answers: Mapping[str, Answer], *, weights: Mapping[str, float]) -> tuple[Share, ...]:
    """The members of a cohort, in the order of their fingerprints."""
    found = (Share(each.member.key, weights[name], each.commitment) for name, each in answers.items())
    return tuple(sorted(found, key=lambda share: share.member))


def cohort_of(
    training: Training,
    *,
    run: Run,
    ledger: Ledger,
    signer: bytes,
    model: bytes,
    shares: tuple[Share, ...],
    outcome: bytes,
) -> Cohort:
    """Makes the cohort that the members of a round sign. Its place is after the ledger's newest record."""
    return Cohort(
        format="cloister cohort 2",
        charter=ledger.charter.digest,
        sequence=ledger.sequence + 1,
        previous=ledger.head,
        signer=signer,
        round=training.number,
        job=run.digest,
        name=run.job.name,
        digest=training.digest,
        model=model,
        shares=shares,
        outcome=outcome,
    )


class Signing:
    """The signatures of one round's cohort.

    Args:
        cohort: encoded. members: the fingerprints of its members, all of whom have to sign.
        asked: the fingerprints of all owners that were asked to sign. quorum: the least number that has to.
    """

    def __init__(
        self, *, number: int, cohort: bytes, members: Collection[str], asked: Collection[str], quorum: int, until: float
    ) -> None:
        self.number = number
        self.cohort = cohort
        self.until = until
        self.members = frozenset(members)
        self._pending = set(asked)
        self._quorum = quorum
        self._signatures: dict[str, MemberSignature] = {}

    @property
    def complete(self) -> bool:
        """Whether the round may be released."""
        return self.members <= self._signatures.keys() and len(self._signatures) >= self._quorum

    @property
    def hopeless(self) -> bool:
        """Whether the round can never be released, whatever the outstanding answers are."""
        possible = self._signatures.keys() | self._pending
        return not self.members <= possible or len(possible) < self._quorum

    def take(self, member: str, message: Signature) -> None:
        """Takes a member's signature.

        Raises:
            RoundError: it was not asked for, came already, or is not valid. No other one of this member counts then.
        """
        if member not in self._pending:
            raise RoundError("a signature that was not asked for, or that came already")
        self._pending.discard(member)
        if fingerprint(message.public_key) != member:
            raise RoundError("the signature comes with another's public key")
        try:
            keys.verify(
                message.signature, message=records.cohort_to_be_signed(self.cohort), public_key=message.public_key
            )
        except CharterError as fault:
            raise RoundError(str(fault)) from None
        self._signatures[member] = MemberSignature(member, message.public_key, message.signature)

    def abandon(self, member: str) -> None:
        """Notes that the member will not sign, or has left. A signature that it gave before stands."""
        self._pending.discard(member)

    def record(self, outcome: Outcome, *, time: int, sign: Callable[[bytes], bytes]) -> bytes:
        """The record that releases the round. ``time``: milliseconds since 1970-01-01 UTC."""
        record = RoundRecord(
            cohort=self.cohort,
            salt=outcome.salt,
            model=outcome.model.digest,
            state=outcome.model.state_digest,
            metrics=outcome.metrics,
            signatures=tuple(self._signatures[each] for each in sorted(self._signatures)),
            time=time,
            signature=b"",
        )
        return records.encode(msgspec.structs.replace(record, signature=sign(records.to_be_signed(record))))
