"""The exchange by which the parties of a study bring each other's ledgers and newest model up to date.

One rule decides which of two chains goes on: no released round is ever lost; records of instances that released nothing
may be. The aggregator, owners and the researcher all call ``reconcile`` for it, the last two through ``advance``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Final, NamedTuple, TypeAlias

from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.records import state_digest
from cloister.wire.limits import CHAIN_BYTES, LIST_ITEMS
from cloister.wire.rounds import Chain

Values: TypeAlias = bytes | memoryview
"""A vector's bytes, which do not change any more."""

_FORK: Final = (
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


class Handed(NamedTuple):
    """The body of a ``Chain``: records, and the vectors of a model if there is one. None of it is checked."""

    first: int
    records: tuple[bytes, ...]
    vector: Values | None
    averages: tuple[Values, ...]
    rounds: int


def reconcile(ours: Ledger, theirs: Ledger) -> Ledger:
    """Decides which of two chains of one charter goes on: ``theirs``, unless it lacks a round that ``ours`` has.

    Raises:
        LedgerError: each has released a round that the other lacks.
    """
    shared = _shared(ours, theirs)
    ours_go_on, theirs_go_on = (each.settled().sequence > shared for each in (ours, theirs))
    if ours_go_on and theirs_go_on:
        raise LedgerError(_FORK.format(shared + 1))
    return ours if ours_go_on or shared == theirs.sequence else theirs


def advance(ledger: Ledger, first: int, records: Sequence[bytes]) -> Ledger:
    """Extends a member's ledger by the records, numbered from ``first`` on, that an aggregator handed over.

    Records that are known already change nothing. ``ledger`` itself stays as it is.

    Raises:
        LedgerError: they cannot stand at their places, or lack a round that was released.
    """
    start = first - 1
    if not 0 <= start <= ledger.sequence:
        raise LedgerError(f"records from number {first} on do not follow the {ledger.sequence} known here")
    parted = start
    for record, known in zip(records, ledger.records[start:], strict=False):
        if record != known:
            break
        parted += 1
    if parted == start + len(records):
        return ledger
    theirs = ledger.upto(parted)
    theirs.extend(records[parted - start :])
    found = reconcile(ledger, theirs)
    if found is not theirs:
        raise LedgerError(_FORK.format(parted + 1))
    return found


def messages(ledger: Ledger, *, after: int, model: ModelState | None = None) -> Iterator[tuple[Chain, list[Values]]]:
    """The messages, with their bodies, that bring somebody who has the first ``after`` records up to date.

    The last one carries ``model``; there is one even where no record is to be sent.
    """
    parts = list(_parts(ledger.since(after))) or [()]
    for number, part in enumerate(parts, 1):
        last = model if number == len(parts) else None
        sizes = tuple(map(len, part))
        if last is None:
            yield Chain(first=after + 1, records=sizes), [*part]
        else:
            state = tuple(map(len, last.averages))
            message = Chain(
                first=after + 1, records=sizes, model=len(last.vector), rounds=last.rounds if state else 0, state=state
            )
            yield message, [*part, last.vector, *last.averages]
        after += len(part)


def hand_over(ledger: Ledger, *, after: int, model: ModelState | None) -> Iterator[tuple[Chain, list[Values]]]:
    """A member's answer to ``HandOver``: records, or the model if there are none.

    An aggregator asks for the model once it knows that these records are the newest.

    Raises:
        LedgerError: so many records are not known here.
    """
    if after > ledger.sequence:
        raise LedgerError(f"records after number {after} are asked for, and {ledger.sequence} are known here")
    return messages(ledger, after=after, model=model if after == ledger.sequence else None)


def sizes(message: Chain, *, body_bytes: int) -> tuple[int, ...]:
    """The length of each part of a ``Chain``'s body: the records, the model if there is one, its averages.

    Raises:
        LedgerError: together they are not as long as the body, or there are averages without a model.
    """
    found = (*message.records, *([message.model] if message.model else []), *message.state)
    if sum(found) != body_bytes or (message.state and not message.model):
        raise LedgerError(f"records came with lengths that do not fit their body of {body_bytes} bytes")
    return found


def cut(body: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """Parts of these sizes, one after the other."""
    ends = list(accumulate(sizes, initial=0))
    return [body[start:end] for start, end in pairwise(ends)]


def unpack(message: Chain, parts: Sequence[Values]) -> Handed:
    """Unpacks a ``Chain`` whose body was cut into ``parts`` as ``sizes`` says."""
    count = len(message.records)
    vector = parts[count] if message.model else None
    averages = tuple(parts[count + 1 :])
    return Handed(message.first, tuple(map(bytes, parts[:count])), vector, averages, message.rounds)


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
