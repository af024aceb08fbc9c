"""Following an aggregator's chain, as an owner or the researcher does: taking what is handed over, and handing over
what the aggregator asks for. ``cloister.ledger.sync`` decides which of two chains goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.sync import FORK, ModelState, Values, messages, reconcile
from cloister.wire.rounds import Chain


class Handed(NamedTuple):
    """The body of a ``Chain``: records, and the vectors of a model if there is one. None of it is checked."""

    first: int
    records: tuple[bytes, ...]
    vector: Values | None
    averages: tuple[Values, ...]
    rounds: int
    step: Values | None = None


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
        raise LedgerError(FORK.format(parted + 1))
    return found


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
    """The length of each part of a ``Chain``'s body: the records, the model if there is one, its averages; or the step.

    Raises:
        LedgerError: together they are not as long as the body, or there are averages without a model, or a model and a
            step.
    """
    found = (*message.records, *([message.model] if message.model else []), *message.state)
    found = (*found, *([message.step] if message.step else []))
    if sum(found) != body_bytes or (message.state and not message.model) or (message.step and message.model):
        raise LedgerError(f"records came with lengths that do not fit their body of {body_bytes} bytes")
    return found


def cut(body: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """Parts of these sizes, one after the other."""
    ends = list(accumulate(sizes, initial=0))
    return [body[start:end] for start, end in pairwise(ends)]


def unpack(message: Chain, parts: Sequence[Values]) -> Handed:
    """Unpacks a ``Chain`` whose body was cut into ``parts`` as ``sizes`` says."""
    count = len(message.records)
    if message.step:
        return Handed(message.first, tuple(map(bytes, parts[:count])), None, (), 0, parts[count])
    vector = parts[count] if message.model else None
    averages = tuple(parts[count + 1 :])
    return Handed(message.first, tuple(map(bytes, parts[:count])), vector, averages, message.rounds)
