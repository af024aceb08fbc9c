"""The first phase of a round: the owners that were asked to train, and their answers."""

from __future__ import annotations

import math

from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.standings import Standings
from cloister.aggregator.weighing import Answer
from cloister.errors import RoundError
from cloister.ledger.chain import Ledger
from cloister.wire.rounds import Declined, Ready


class Training:
    """The owners of one round, by name. ``until``: the moment after which an answer is too late.

    ``ledger``: the one that the round goes on from.
    """

    def __init__(self, number: int, *, digest: bytes, owners: set[str], ledger: Ledger, until: float) -> None:
        self.number = number
        self.digest = digest
        """The round's digest."""
        self.until = until
        self.answers: dict[str, Answer] = {}
        self.standings = Standings(number, ledger=ledger, asked=owners)
        self.asked = len(owners)
        """The number of owners that were asked."""
        self._waiting = set(owners)
        self._limits = ledger.charter.limits
        self._used = {*ledger.commitments}

    @property
    def over(self) -> bool:
        """Whether all have answered, or left."""
        return not self._waiting

    def ready(self, peer: ConnectedMember, message: Ready) -> None:
        """Takes an owner's answer that it has trained.

        Raises:
            RoundError: it is out of the round, or answered before, which then stands.
        """
        if peer.name not in self._waiting:
            raise RoundError("this owner was not asked to train for the round, or has answered already")
        self._waiting.discard(peer.name)
        if message.examples not in (self._limits.min_examples, *self._limits.row_buckets):
            raise RoundError("examples are told as one of the charter's min_examples and row_buckets")
        self._check_norms(message)
        if message.commitment in self._used:
            raise RoundError("a contribution is used once, and this commitment is of one that came before")
        metrics = {}
        for metric in self._limits.metrics:
            if metric.name in message.metrics:
                value = message.metrics[metric.name]
                if not math.isfinite(value):
                    raise RoundError("a metric is not finite")
                metrics[metric.name] = min(max(value, metric.low), metric.high)
        self.standings.take(peer, message.standing)
        peer.answered = max(peer.answered, self.number)
        self._used.add(message.commitment)
        norms = (message.norm, message.buffers)
        self.answers[peer.name] = Answer(peer.member, message.examples, norms, metrics, message.commitment)

    def _check_norms(self, message: Ready) -> None:
        limits = self._limits
        if limits.hides == "record":
            if (message.norm, message.buffers) != (0, 0):
                raise RoundError(
                    "where noise hides records, nothing is told of how long a contribution is: norms are 0"
                )
            return
        some = message.norm > 0 or limits.noise is not None  # without noise, who changes nothing hides nobody
        if not (some and 0 <= message.norm <= limits.clip and 0 <= message.buffers <= (limits.clip_buffers or 0.0)):
            raise RoundError("a contribution's norms are numbers of at most the charter's clip and clip_buffers")

    def decline(self, peer: ConnectedMember, message: Declined) -> None:
        """Takes an owner's word that it takes no part; it may have answered the round by that.

        Raises:
            RoundError: what it says of its standing does not count. It is left out all the same.
        """
        self.leave_out(peer.name)
        if message.standing is not None:
            self.standings.take(peer, message.standing)
            peer.answered = max(peer.answered, self.number)

    def waits_for(self, name: str) -> bool:
        """Whether an owner was asked, and has not answered."""
        return name in self._waiting

    def leave_out(self, name: str) -> None:
        """Leaves out an owner that has declined, or left."""
        self._waiting.discard(name)
        self.answers.pop(name, None)

    def close(self) -> None:
        """Leaves out the owners that have not answered in time."""
        self._waiting.clear()
