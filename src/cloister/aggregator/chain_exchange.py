"""The ledger and the newest model, and how an instance and its members bring each other up to date.

A new instance knows nothing; what it goes on from is what members hand over, checked record by record. The chain with
more rounds is the one that goes on. An instance that has begun and released nothing may be dropped from it, its own
included; a round never is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cloister.aggregation.strategies import State
from cloister.aggregation.vectors import Vector
from cloister.aggregator.bodies import HandedOver, views
from cloister.aggregator.peers import Guest, Guests
from cloister.charter.charter import Charter
from cloister.errors import LedgerError
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.wire.limits import CHAIN_BYTES, LIST_ITEMS
from cloister.wire.rounds import Chain, HandOver, Join

ANSWER_S: Final = 60.0
"""How long a member may take to hand something over, beside the time for its bytes."""

_FORK: Final = "your records are no part of this chain, nor it of yours: one of the two is a fork"


@dataclass(frozen=True, eq=False)
class Held:
    """A model, and what the server's rule remembers beside it."""

    digest: bytes
    vector: Vector
    state: State


@dataclass
class _Asked:
    """Who was asked for what: records after the first ``after``, or the newest model."""

    guest: Guest
    after: int
    until: float
    theirs: Ledger | None = None
    """What its records make of the rounds that are known here; None where they cannot add any."""
    head: bytes = b""
    job: Job | None = None
    """Of the model that is wanted, with ``vectors`` of its rule's state."""
    vectors: int = 0


class Chains:
    """This instance's ledger and model, and who has been asked to hand over more."""

    def __init__(self, charter: Charter, *, guests: Guests, upload_s: float) -> None:
        self.ledger = Ledger(charter)
        self.held: Held | None = None
        self._tell = guests.tell
        self._upload_s = upload_s
        self._ahead: deque[Guest] = deque()
        self._asked: _Asked | None = None

    @property
    def due(self) -> float | None:
        """When the member that was asked has taken too long."""
        return self._asked.until if self._asked else None

    @property
    def newest(self) -> Held | None:
        """The model that the next round starts from, if it is here."""
        return self.held if self.held is not None and self.held.digest == self.ledger.model else None

    def join(self, guest: Guest, message: Join, *, now: float) -> None:
        """Takes in how far a guest's records go.

        Raises:
            LedgerError: it is on a fork.
        """
        guest.joined, guest.sequence, guest.head = True, message.sequence, message.head
        guest.holds = message.holds
        # An instance that releases nothing leaves no record behind, so that there are no more of them than rounds.
        if message.sequence > 2 * self.ledger.charter.limits.rounds + 1:
            raise LedgerError(_FORK)
        if self.ledger.passed(guest.sequence, guest.head):
            self.bring(guest)
            return
        if self._settled_within(guest.sequence) == guest.sequence:
            raise LedgerError(_FORK)
        self._ahead.append(guest)
        self.ask(now=now)

    def ask(self, *, now: float) -> None:
        """Asks the next of those who have other records for them, one at a time."""
        while self._ahead and self._asked is None:
            guest = self._ahead.popleft()
            if self.ledger.passed(guest.sequence, guest.head):
                self.bring(guest)
                continue
            after, settled = self._settled_within(guest.sequence), self.ledger.settled()
            head = records.head_of(self.ledger.records[after - 1]) if after else b""
            theirs = settled if after == settled.sequence else None
            self._asked = _Asked(guest, after, now + ANSWER_S, theirs, head)
            self._tell(guest, HandOver(after=after), ())

    def ask_for_model(self, guest: Guest, *, job: Job, vectors: int, now: float) -> None:
        """Asks a guest that holds the newest model for it; nothing where another is being asked for something."""
        if self._asked is None:
            self._asked = _Asked(guest, self.ledger.sequence, now + ANSWER_S, job=job, vectors=vectors)
            self._tell(guest, HandOver(after=self.ledger.sequence), ())

    def expect(self, guest: Guest, message: Chain, *, body_bytes: int, now: float) -> HandedOver:
        """Room for what a guest hands over, if it was asked to.

        Raises:
            LedgerError: it was not, or not for this.
        """
        asked = self._asked
        if asked is None or asked.guest is not guest:
            raise LedgerError("nobody asked for these records")
        size = sum(message.records)
        if message.first != asked.after + 1 or body_bytes != size + message.model + sum(message.state):
            raise LedgerError("these are not the records that were asked for")
        if size > CHAIN_BYTES or (asked.job is not None and message.records):
            raise LedgerError("these are more records than were asked for")
        asked.until = now + seconds_for(body_bytes, least=self._upload_s)
        return HandedOver(message, job=asked.job, vectors=asked.vectors)

    def take(self, guest: Guest, body: HandedOver, *, now: float) -> bool:
        """Takes in what a guest has handed over. Whether the ledger has changed.

        Raises:
            LedgerError: it is on a fork, or this is not what was asked for.
        """
        asked, self._asked = self._asked, None
        if asked is None or asked.guest is not guest:
            raise LedgerError("nobody asked for these records")
        try:
            if asked.job is not None:
                self._take_model(guest, body)
                return False
            self._take_records(asked, [bytes(record) for record in body.records])
            if body.records and asked.after < guest.sequence:  # a long chain comes in parts
                asked.until = now + ANSWER_S
                self._asked = asked
                return False
            return self._adopt(asked)
        finally:
            self.ask(now=now)

    def forget(self, guest: Guest, *, now: float) -> None:
        """The guest has left."""
        if guest in self._ahead:
            self._ahead.remove(guest)
        if self._asked is not None and self._asked.guest is guest:
            self._asked = None
        self.ask(now=now)

    def late(self, *, now: float) -> Guest | None:
        """The guest that has taken too long to hand something over."""
        return self._asked.guest if self._asked is not None and now >= self._asked.until else None

    def bring(self, guest: Guest) -> None:
        """Gives a guest the records that it lacks, and the newest model if it is for it and not there."""
        lacking = guest.sequence
        if not self.ledger.passed(lacking, guest.head):
            lacking = self._settled_within(lacking)
        if guest.holds and lacking >= self._settled_within(self.ledger.sequence):
            guest.model = self.ledger.model
        guest.holds = False
        held = self.newest if guest.takes_models else None
        if held is not None and guest.model == held.digest:
            held = None
        parts = list(in_parts(self.ledger.since(lacking)))
        if not parts and (held is not None or not guest.ready):
            parts = [()]  # it waits for word that there are no others
        for part in parts:
            lacking += len(part)
            sizes = tuple(map(len, part))
            first = lacking - len(part) + 1
            if held is None or lacking < self.ledger.sequence:
                self._tell(guest, Chain(first=first, records=sizes), views(part))
                continue
            # What a rule begins with is in no record, so that nobody could check it.
            kept = (held.state.momentum, held.state.squares) if held.state.rounds else ()
            averages = [each for each in kept if each is not None]
            state = tuple(each.nbytes for each in averages)
            message = Chain(first=first, records=sizes, model=held.vector.nbytes, rounds=held.state.rounds, state=state)
            self._tell(guest, message, views(part, held.vector, *averages))
            guest.model = held.digest
        guest.sequence, guest.head, guest.ready = self.ledger.sequence, self.ledger.head, True

    def _take_records(self, asked: _Asked, found: list[bytes]) -> None:
        try:
            if asked.theirs is not None:
                asked.theirs.extend(found)
            else:
                asked.head = _check_spent(found, head=asked.head)
        except LedgerError as fault:
            raise LedgerError(f"{_FORK} ({fault})") from None
        asked.after += len(found)

    def _adopt(self, asked: _Asked) -> bool:
        """Goes on with a guest's chain if it has more rounds, and otherwise gives it this one."""
        guest, theirs = asked.guest, None if asked.theirs is None else asked.theirs.settled()
        # Evidence is not judged here: an instance counts once owners, who judge it, have signed a round of it.
        better = theirs is not None and theirs.released > self.ledger.released
        if theirs is not None and better:
            self.ledger = theirs
        guest.sequence, guest.head = self._settled_within(guest.sequence), b""  # which `bring` begins after
        self.bring(guest)
        return better

    def _take_model(self, guest: Guest, body: HandedOver) -> None:
        guest.model = None
        if body.vector is None or (body.model, body.state_digest) != (self.ledger.model, self.ledger.state):
            raise LedgerError("this is not the newest record's model")
        guest.model = body.model
        self.held = Held(body.model, body.vector, body.state)

    def _settled_within(self, sequence: int) -> int:
        """The number of the newest record of a round among the first ``sequence``; 0 where there is none."""
        rounds = (receipt.cohort.sequence for receipt in reversed(self.ledger.receipts))
        return next((number for number in rounds if number <= sequence), 0)


def seconds_for(nbytes: int, *, least: float) -> float:
    """How long an upload of so many bytes may take: 1 s for each MiB, beside ``least``."""
    return least + nbytes / (1 << 20)


def in_parts(found: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    """Records in parts that fit a message (``Chain``) each."""
    part: list[bytes] = []
    size = 0
    for record in found:
        if part and (len(part) == LIST_ITEMS or size + len(record) > CHAIN_BYTES):
            yield tuple(part)
            part, size = [], 0
        part.append(record)
        size += len(record)
    if part:
        yield tuple(part)


def _check_spent(found: list[bytes], *, head: bytes) -> bytes:
    """Checks that what a member has beyond a round of this chain are instances only, which released nothing.

    Returns the head after them.

    Raises:
        LedgerError: they are something else.
    """
    for data in found:
        record = records.decode(data)
        if not isinstance(record, records.InstanceRecord) or record.previous != head:
            raise LedgerError("another round follows the one that both have")
        head = records.head_of(data)
    return head
