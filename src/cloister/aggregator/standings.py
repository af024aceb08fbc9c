"""The owners' answers to a round, and what they leave the aggregator to choose from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from cloister.aggregator.peers import ConnectedMember
from cloister.errors import LedgerError, RoundError
from cloister.ledger import answers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Ledger
from cloister.ledger.cohorts import Bound
from cloister.wire.rounds import SignedAnswer, Standing

ANSWERS_BYTES: Final = 1 << 19
"""The answers that are shown in one message, beside the first of them; more come in several."""


class Standings:
    """What binds the owners in one round, by their fingerprints. ``ledger``: the one that the round goes on from.

    ``asked``: the names of the owners that were asked to answer.
    """

    def __init__(self, number: int, *, ledger: Ledger, asked: Collection[str] = ()) -> None:
        self._number = number
        self._ledger = ledger
        self._asked = frozenset(asked)
        self._told: dict[str, tuple[Standing, Answer]] = {}

    def take(self, peer: ConnectedMember, standing: Standing) -> None:
        """Takes an owner's answer.

        Raises:
            RoundError: it is not its own answer to this round, on records that are known here.
        """
        signed = standing.answer
        try:
            answer = answers.read(signed, charter=self._ledger.charter)
        except LedgerError as fault:
            raise RoundError(str(fault)) from None
        if signed.signature.member != peer.key or answer.round != self._number:
            raise RoundError("an answer of another owner's, or to another round")
        if not self._ledger.passed(answer.sequence, answer.head):
            raise RoundError("an answer that goes on from a record that is not known here")
        self._told[peer.key] = standing, answer

    @property
    def answers(self) -> tuple[SignedAnswer, ...]:
        """All of them, to be shown to owners."""
        return tuple(standing.answer for standing, _ in self._told.values())

    @property
    def in_messages(self) -> Iterator[tuple[SignedAnswer, ...]]:
        """The same, so many at a time as fit into a message."""
        part: list[SignedAnswer] = []
        for each in self.answers:
            if part and sum(len(one.answer) for one in (*part, each)) > ANSWERS_BYTES:
                yield tuple(part)
                part = []
            part.append(each)
        if part:
            yield tuple(part)

    def wants_answers(self, peer: ConnectedMember) -> bool:
        """Whether an owner has agreed to cohorts that answers may show to be void; or has given no answer, perhaps
        because it would have to list too many."""
        told = self._told.get(peer.key)
        return told is None or told[0].open

    def bound(self, owners: Iterable[ConnectedMember]) -> dict[str, Bound]:
        """What binds each of these owners that can still commit the round. Those that came since may have committed
        whatever the others list; nobody counts on those that were asked and said nothing."""
        model = self._ledger.model
        listed = {each for _, answer in self._told.values() for each in answer.committed if each.model == model}
        # By whole entries: one with another's digest and other members is void too, and says nothing of that other.
        void = answers.void_entries(listed, answers=self.answers, ledger=self._ledger)
        return {
            peer.key: self._bound(peer.key, listed - void)
            for peer in owners
            if peer.answered <= self._number and (peer.key in self._told or peer.name not in self._asked)
        }

    def _bound(self, key: str, open_: set[Committed]) -> Bound:
        """``open_``: the cohorts on the round's model that some list and that are not void."""
        standing, answer = self._told.get(key, (None, None))
        committed = open_ if answer is None else open_.intersection(answer.committed)
        return Bound(
            frozenset(answers.unmask(each.members, charter=self._ledger.charter) for each in committed),
            frozenset(map(frozenset, standing.elsewhere)) if standing is not None else frozenset(),
        )
