"""The exchange by which the parties of a study bring each other's ledgers and newest model up to date.

One rule decides which of two chains goes on: no released round is ever lost; records of instances that released nothing
may be. The aggregator, owners and the researcher all call ``reconcile`` for it, the last two through
``following.advance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.records import state_digest
from cloister.wire.limits import CHAIN_BYTES, LIST_ITEMS
from cloister.wire.rounds import Chain

Values: TypeAlias = bytes | memoryview
"""A vector's bytes, which do not change any more."""

FORK: Final = (
    "it leaves the chain that is known here at record {}, and lacks rounds that were released: one of the two is a"
    " fork. Keep the ledger, and show it to the other members"
)


@dataclass(frozen=True)
class ModelState:
    """A model and the strategy's state, as the bytes that travel and are kept.

    The first model of a study has no ``averages``: the strategy alone determines its first state.
    """

    digest: bytes
    """The model's name, 32 bytes (``cloister.ledger.job.model_digest``)."""
    vector: Values
    averages: tuple[Values, ...] = ()
    """Vectors of float64 (``cloister.aggregation.strategies.State``)."""
    rounds: int = 0

    @cached_property
    def state_digest(self) -> bytes | None:
        """The digest of the strategy's state; None where it has none."""
        return state_digest(self.rounds, self.averages)

    def is_newest(self, ledger: Ledger) -> bool:
        """Whether the ledger's newest round released it; before the first round, whether it is the charter's first."""
        return (self.digest, self.state_digest) == (ledger.model, ledger.state)


def reconcile(ours: Ledger, theirs: Ledger) -> Ledger:
    """Decides which of two chains of one charter goes on: ``theirs``, unless it lacks a round that ``ours`` has.

    Raises:
        LedgerError: each has released a round that the other lacks.
    """
    shared = _shared(ours, theirs)
    ours_go_on, theirs_go_on = (each.settled().sequence > shared for each in (ours, theirs))
    if ours_go_on and theirs_go_on:
        raise LedgerError(FORK.format(shared + 1))
    return ours if ours_go_on or shared == theirs.sequence else theirs


def messages(
    ledger: Ledger, *, after: int, model: ModelState | None = None, step: Values | None = None
) -> Iterator[tuple[Chain, list[Values]]]:
    """The messages, with their bodies, that bring somebody who has the first ``after`` records up to date.

    The last one carries ``model``, or in its place the ``step`` that leads to it; there is one even where no record is
    to be sent.
    """
    parts = list(_parts(ledger.since(after))) or [()]
    for number, part in enumerate(parts, 1):
        last = model if number == len(parts) else None
        sizes = tuple(map(len, part))
        if last is None:
            yield Chain(first=after + 1, records=sizes), [*part]
        elif step is not None:
            yield Chain(first=after + 1, records=sizes, step=len(step)), [*part, step]
        else:
            state = tuple(map(len, last.averages))
            message = Chain(
                first=after + 1, records=sizes, model=len(last.vector), rounds=last.rounds if state else 0, state=state
            )
            yield message, [*part, last.vector, *last.averages]
        after += len(part)


def _shared(ours: Ledger, theirs: Ledger) -> int:
    """The number of records that two chains of one charter share. Each record holds the hash of those before it."""
    low, high = 0, min(ours.sequence, theirs.sequence)
    while low < high:
        middle = (low + high + 1) // 2
        if ours.records[middle - 1] == theirs.records[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def _parts(records: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Records in parts that fit one ``Chain`` each."""
    part: list[bytes] = []
    nbytes = 0
    for record in records:
        if part and (len(part) == LIST_ITEMS or nbytes + len(record) > CHAIN_BYTES):
            yield tuple(part)
            part, nbytes = [], 0
        part.append(record)
        nbytes += len(record)
    if part:
        yield tuple(part)
