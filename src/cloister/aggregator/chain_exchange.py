"""The ledger and the newest model: an instance and its members bring each other up to date.

A new instance knows nothing; it goes on from the records that members hand over, and checks each. The chain with more
rounds is the one that goes on. The record of an instance that released nothing may be dropped from it, even this
instance's own; a round never is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloister.aggregator.bodies import HandedOver
from cloister.aggregator.own import seconds_for
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers
from cloister.charter.charter import Charter
from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.ledger.sync import ModelState, Values, messages, reconcile
from cloister.wire.limits import CHAIN_BYTES
from cloister.wire.rounds import Chain, HandOver, Join

ANSWER_S: Final = 30.0
"""The time in which a member has to begin to hand something over. Once it has begun, its pace decides."""
SOURCES: Final = 3
"""The most members that are asked for records at once: a slow one holds up nobody."""
HOLDERS: Final = 2
"""The most members that are asked for the model at once."""

_FORK: Final = "your records are not part of this chain, nor it of yours: one of the two is a fork"


@dataclass
class _Asked:
    """A request to one member: for the records after the first ``after``, up to ``last``; or for the newest model."""

    peer: ConnectedMember
    after: int
    last: int
    until: float | None
    """When it is late; None while its answer arrives."""
    theirs: Ledger
    """The member's chain, as far as it has handed it over."""
    job: Job | None = None
    """The job of the model that is wanted."""
    sizes: tuple[int, ...] = (0,)
    """The bytes of the model, and of the vectors of its strategy's state."""
    body: HandedOver | None = None
    spare: bool = False
    """Whether another's answer has made this one needless."""

    def let_go(self) -> None:
        """The answer is not wanted any more: the rest of it is read and forgotten."""
        self.spare = True
        if self.body is not None:
            self.body.discarded = True


class Chains:
    """This instance's ledger and model, and the members that have been asked to hand over more.

    What members say of their records bounds what they may send, and nothing else: each record is checked before there
    is memory for the next, and nobody is asked for a model whose size is not known.
    """

    def __init__(self, charter: Charter, *, peers: ConnectedMembers) -> None:
        self.ledger = Ledger(charter)
        self.held: ModelState | None = None
        self._tell = peers.tell
        self._ahead: list[ConnectedMember] = []
        self._asked: dict[str, _Asked] = {}
        self._owing: set[str] = set()
        """Those who have been asked, and have handed over nothing that was right since; others go first."""

    @property
    def due(self) -> float | None:
        """The moment after which a member that was asked is late."""
        return min((asked.until for asked in self._asked.values() if asked.until is not None), default=None)

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
        if not self._passed(peer) and self._settled_within(peer.sequence) == peer.sequence:
            raise LedgerError(_FORK)
        self._ahead.append(peer)
        self.ask(now=now)

    def ask(self, *, now: float) -> None:
        """Asks members that have other records for them, a few at a time, owners first.

        Those whose records are known by now are brought up to date, also while they hand them over.
        """
        for asked in self._asked.values():
            if asked.job is None and not asked.spare and self._passed(asked.peer):
                asked.let_go()
                self.bring(asked.peer)
        waiting, self._ahead = self._ahead, []
        for peer in sorted(waiting, key=lambda peer: (peer.key in self._owing, not peer.owner)):
            if self._passed(peer):
                self.bring(peer)
            elif sum(asked.job is None and not asked.spare for asked in self._asked.values()) < SOURCES:
                after = self._settled_within(peer.sequence)
                self._ask(_Asked(peer, after, peer.sequence, now + ANSWER_S, self.ledger.upto(after)))
            else:
                self._ahead.append(peer)

    def ask_for_model(self, holders: Iterable[ConnectedMember], *, job: Job, vectors: int, now: float) -> None:
        """Asks the first of those that hold the newest model for it. ``vectors``: those of its strategy's state."""
        at, layout = self.ledger.sequence, job.layout
        sizes = (layout.nbytes, *[layout.length * 8] * vectors)
        for peer in sorted(holders, key=lambda peer: peer.key in self._owing):
            if sum(asked.job is not None and not asked.spare for asked in self._asked.values()) == HOLDERS:
                return
            if peer.key not in self._asked:
                self._ask(_Asked(peer, at, at, now + ANSWER_S, self.ledger, job, sizes))

    def _ask(self, asked: _Asked) -> None:
        self._asked[asked.peer.key] = asked
        self._owing.add(asked.peer.key)
        self._tell(asked.peer, HandOver(after=asked.after), ())

    def expect(self, peer: ConnectedMember, message: Chain, *, body_bytes: int) -> HandedOver:
        """Makes room for the records or the model that a member hands over, if it was asked to.

        Raises:
            LedgerError: it was not asked, or for something else. Nothing of it is read.
        """
        asked = self._asked.get(peer.key)
        if asked is None:
            raise LedgerError("nobody asked for these records")
        size, sizes = sum(message.records), (message.model, *message.state)
        if message.first != asked.after + 1 or body_bytes != size + sum(sizes):
            raise LedgerError("these are not the records that were asked for")
        if size > CHAIN_BYTES or len(message.records) > asked.last - asked.after:
            raise LedgerError("these are more records than were asked for")
        if sizes != asked.sizes:
            raise LedgerError("this is not the model that was asked for, or none was")
        asked.until = None
        asked.body = HandedOver(message, chain=asked.theirs, job=asked.job)
        asked.body.discarded = asked.spare
        return asked.body

    def take(self, peer: ConnectedMember, message: Chain, body: HandedOver, *, now: float) -> bool:
        """Takes what a member has handed over, and returns whether the ledger has changed.

        Raises:
            LedgerError: it is on a fork, or this is not what was asked for.
        """
        asked = self._asked.pop(peer.key, None)
        if asked is None or asked.body is not body:
            raise LedgerError("nobody asked for these records")
        try:
            if body.fault is not None:
                raise LedgerError(f"{_FORK} ({body.fault})")
            if asked.job is None:
                asked.after += len(message.records)
                if message.records and asked.after < asked.last:  # a long chain comes in parts
                    asked.until = now + min(ANSWER_S, seconds_for(sum(message.records)))
                    self._asked[peer.key] = asked
                    return False
            better = not asked.spare and (self._adopt(asked) if asked.job is None else self._take_model(peer, body))
            self._owing.discard(peer.key)
            return better
        finally:
            self.ask(now=now)

    def forget(self, peer: ConnectedMember, *, now: float) -> None:
        """Forgets a member that has left."""
        if peer in self._ahead:
            self._ahead.remove(peer)
        asked = self._asked.pop(peer.key, None)
        if asked is not None:
            asked.let_go()
        self.ask(now=now)

    def late(self, *, now: float) -> list[ConnectedMember]:
        """The members that have taken too long to begin to hand something over."""
        asked = self._asked.values()
        return [each.peer for each in asked if each.until is not None and now >= each.until]

    def bring(self, peer: ConnectedMember, *, step: Values | None = None) -> None:
        """Gives a member the records that it lacks, and the newest model if it takes models and lacks this one.
        ``step``: of the newest round, where the member holds the model before, and so can make this one of it."""
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
            for message, bodies in messages(self.ledger, after=lacking, model=held, step=step):
                self._tell(peer, message, tuple(map(memoryview, bodies)))
        if held is not None:
            peer.model = held.digest
        peer.sequence, peer.head, peer.ready = self.ledger.sequence, self.ledger.head, True

    def _adopt(self, asked: _Asked) -> bool:
        """Goes on with a member's chain if it has more rounds; otherwise the member is given this one."""
        peer = asked.peer
        # Evidence is not judged here: an instance counts once owners, who judge it, have signed a round of it.
        theirs = reconcile(self.ledger, asked.theirs).settled()
        better = theirs.released > self.ledger.released
        if better:
            self.ledger = theirs
            self._let_models_go()
        peer.sequence, peer.head = self._settled_within(peer.sequence), b""  # which `bring` begins after
        self.bring(peer)
        return better

    def _take_model(self, peer: ConnectedMember, body: HandedOver) -> bool:
        peer.model = None
        if body.model is None or not body.model.is_newest(self.ledger):
            raise LedgerError("this is not the newest record's model")
        peer.model, self.held = body.model.digest, body.model
        self._let_models_go()
        return False

    def _let_models_go(self) -> None:
        for asked in self._asked.values():
            if asked.job is not None:
                asked.let_go()

    def _passed(self, peer: ConnectedMember) -> bool:
        return self.ledger.passed(peer.sequence, peer.head)

    def _settled_within(self, sequence: int) -> int:
        """The number of the newest record of a round among the first ``sequence``; 0 where there is none."""
        rounds = (receipt.cohort.sequence for receipt in reversed(self.ledger.receipts))
        return next((number for number in rounds if number <= sequence), 0)
