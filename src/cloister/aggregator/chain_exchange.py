"""The ledger and the newest model: an instance and its members bring each other up to date.

A new instance knows nothing; it goes on from the records that members hand over, and checks each. The chain with more
rounds is the one that goes on. The record of an instance that released nothing may be dropped from it, even this
instance's own; a round never is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from cloister.aggregator.bodies import HandedOver
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers
from cloister.charter.charter import Charter
from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.ledger.sync import ModelState, messages, reconcile
from cloister.wire.limits import CHAIN_BYTES
from cloister.wire.rounds import Chain, HandOver, Join

ANSWER_S: Final = 60.0
"""The time that a member has to hand something over, beside the time for its bytes."""

_FORK: Final = "your records are not part of this chain, nor it of yours: one of the two is a fork"


@dataclass
class _Asked:
    """A request to one member: for records after the first ``after``, or for the newest model."""

    peer: ConnectedMember
    after: int
    until: float
    theirs: Ledger
    """The member's chain, as far as it has handed it over."""
    job: Job | None = None
    """The job of the model that is wanted, with ``vectors`` of its strategy's state."""
    vectors: int = 0


class Chains:
    """This instance's ledger and model, and the member that has been asked to hand over more."""

    def __init__(self, charter: Charter, *, peers: ConnectedMembers, upload_s: float) -> None:
        self.ledger = Ledger(charter)
        self.held: ModelState | None = None
        self._tell = peers.tell
        self._upload_s = upload_s
        self._ahead: deque[ConnectedMember] = deque()
        self._asked: _Asked | None = None

    @property
    def due(self) -> float | None:
        """The moment after which the member that was asked is late."""
        return self._asked.until if self._asked else None

    @property
    def newest(self) -> ModelState | None:
        """The model that the next round starts from, if it is here."""
        return self.held if self.held is not None and self.held.digest == self.ledger.model else None

    def join(self, peer: ConnectedMember, message: Join, *, now: float) -> None:
        """Notes how far a member's records go.

        Raises:
            LedgerError: it is on a fork.
        """
        peer.joined, peer.sequence, peer.head = True, message.sequence, message.head
        peer.holds = message.holds
        # An instance that releases nothing leaves no record behind, so there are no more instances than rounds.
        if message.sequence > 2 * self.ledger.charter.limits.rounds + 1:
            raise LedgerError(_FORK)
        if self.ledger.passed(peer.sequence, peer.head):
            self.bring(peer)
            return
        if self._settled_within(peer.sequence) == peer.sequence:
            raise LedgerError(_FORK)
        self._ahead.append(peer)
        self.ask(now=now)

    def ask(self, *, now: float) -> None:
        """Asks the next member that has other records for them, one at a time."""
        while self._ahead and self._asked is None:
            peer = self._ahead.popleft()
            if self.ledger.passed(peer.sequence, peer.head):
                self.bring(peer)
                continue
            after = self._settled_within(peer.sequence)
            self._asked = _Asked(peer, after, now + ANSWER_S, self.ledger.upto(after))
            self._tell(peer, HandOver(after=after), ())

    def ask_for_model(self, peer: ConnectedMember, *, job: Job, vectors: int, now: float) -> None:
        """Asks a member that holds the newest model for it, unless another request is open."""
        if self._asked is None:
            self._asked = _Asked(peer, self.ledger.sequence, now + ANSWER_S, self.ledger, job=job, vectors=vectors)
            self._tell(peer, HandOver(after=self.ledger.sequence), ())

    def expect(self, peer: ConnectedMember, message: Chain, *, body_bytes: int, now: float) -> HandedOver:
        """Makes room for the records or the model that a member hands over, if it was asked to.

        Raises:
            LedgerError: it was not asked, or for something else.
        """
        asked = self._asked
        if asked is None or asked.peer is not peer:
            raise LedgerError("nobody asked for these records")
        size = sum(message.records)
        if message.first != asked.after + 1 or body_bytes != size + message.model + sum(message.state):
            raise LedgerError("these are not the records that were asked for")
        if size > CHAIN_BYTES or (asked.job is not None and message.records):
            raise LedgerError("these are more records than were asked for")
        asked.until = now + seconds_for(body_bytes, least=self._upload_s)
        return HandedOver(message, job=asked.job, vectors=asked.vectors)

    def take(self, peer: ConnectedMember, body: HandedOver, *, now: float) -> bool:
        """Takes what a member has handed over, and returns whether the ledger has changed.

        Raises:
            LedgerError: it is on a fork, or this is not what was asked for.
        """
        asked, self._asked = self._asked, None
        if asked is None or asked.peer is not peer:
            raise LedgerError("nobody asked for these records")
        try:
            if asked.job is not None:
                self._take_model(peer, body)
                return False
            self._take_records(asked, [bytes(record) for record in body.records])
            if body.records and asked.after < peer.sequence:  # a long chain comes in parts
                asked.until = now + ANSWER_S
                self._asked = asked
                return False
            return self._adopt(asked)
        finally:
            self.ask(now=now)

    def forget(self, peer: ConnectedMember, *, now: float) -> None:
        """Forgets a member that has left."""
        if peer in self._ahead:
            self._ahead.remove(peer)
        if self._asked is not None and self._asked.peer is peer:
            self._asked = None
        self.ask(now=now)

    def late(self, *, now: float) -> ConnectedMember | None:
        """The member that has taken too long to hand something over."""
        return self._asked.peer if self._asked is not None and now >= self._asked.until else None

    def bring(self, peer: ConnectedMember) -> None:
        """Gives a member the records that it lacks, and the newest model if it takes models and lacks this one."""
        lacking = peer.sequence
        if not self.ledger.passed(lacking, peer.head):
            lacking = self._settled_within(lacking)
        if peer.holds and lacking >= self._settled_within(self.ledger.sequence):
            peer.model = self.ledger.model
        peer.holds = False
        held = self.newest if peer.takes_models else None
        if held is not None and peer.model == held.digest:
            held = None
        # A member that is not ready waits to be told that there are no other records.
        if lacking < self.ledger.sequence or held is not None or not peer.ready:
            for message, bodies in messages(self.ledger, after=lacking, model=held):
                self._tell(peer, message, tuple(map(memoryview, bodies)))
        if held is not None:
            peer.model = held.digest
        peer.sequence, peer.head, peer.ready = self.ledger.sequence, self.ledger.head, True

    def _take_records(self, asked: _Asked, found: list[bytes]) -> None:
        try:
            asked.theirs.extend(found)
        except LedgerError as fault:
            raise LedgerError(f"{_FORK} ({fault})") from None
        asked.after += len(found)

    def _adopt(self, asked: _Asked) -> bool:
        """Goes on with a member's chain if it has more rounds; otherwise the member is given this one."""
        peer = asked.peer
        # Evidence is not judged here: an instance counts once owners, who judge it, have signed a round of it.
        theirs = reconcile(self.ledger, asked.theirs).settled()
        better = theirs.released > self.ledger.released
        if better:
            self.ledger = theirs
        peer.sequence, peer.head = self._settled_within(peer.sequence), b""  # which `bring` begins after
        self.bring(peer)
        return better

    def _take_model(self, peer: ConnectedMember, body: HandedOver) -> None:
        peer.model = None
        if body.model is None or not body.model.is_newest(self.ledger):
            raise LedgerError("this is not the newest record's model")
        peer.model, self.held = body.model.digest, body.model

    def _settled_within(self, sequence: int) -> int:
        """The number of the newest record of a round among the first ``sequence``; 0 where there is none."""
        rounds = (receipt.cohort.sequence for receipt in reversed(self.ledger.receipts))
        return next((number for number in rounds if number <= sequence), 0)


def seconds_for(nbytes: int, *, least: float) -> float:
    """The time that an upload of so many bytes may take: ``least``, and 1 s for each MiB."""
    return least + nbytes / (1 << 20)
