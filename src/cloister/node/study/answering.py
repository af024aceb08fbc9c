"""An owner's answers to rounds: what it tells of the cohorts that it has committed, and what others' tell it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from cloister.charter import Charter
from cloister.charter.keys import PrivateKey
from cloister.errors import RoundError
from cloister.ledger import answers
from cloister.ledger.answers import COHORTS, Answer, Committed
from cloister.ledger.chain import Ledger
from cloister.node.study import entries
from cloister.node.study.entries import Answered, Voided
from cloister.node.study.journal import Records
from cloister.wire.limits import ELSEWHERE
from cloister.wire.rounds import SignedAnswer, Standing

Agreed: TypeAlias = entries.Consented | entries.Committed


class Answering:
    """Answers rounds for one owner under one charter. Whoever answers has written the round down before."""

    def __init__(self, charter: Charter, *, key: PrivateKey, records: Records) -> None:
        self._charter = charter
        self._digest: Final = charter.digest
        self._key = key
        self._records = records
        self._keys = {member.id: member.key for member in charter.members}

    def check_can(self, ledger: Ledger) -> None:
        """Checks that an answer can list all that it has to.

        Raises:
            RoundError: it cannot.
        """
        if (found := len(self._committed(ledger))) > COHORTS:
            raise RoundError(
                f"{found} cohorts that this node committed may still be released, and an answer lists {COHORTS}: owners"
                " that have not been there for long have to come, so that they can be told to be void"
            )

    def decline(self, number: int, *, ledger: Ledger) -> Standing | None:
        """The answer to a round that the owner takes no part in, once it is written down; None where it gives none."""
        with self._records.together:
            if number <= self._records.highest(self._digest) or len(self._committed(ledger)) > COHORTS:
                return None
            self._records.answer(Answered(self._digest, number))
        return self.standing(number, model=ledger.model or b"", ledger=ledger)

    def standing(self, number: int, *, model: bytes, ledger: Ledger) -> Standing:
        """What binds the owner, with its answer to a round, which it has written down. ``model``: the round's."""
        newest = ledger.settled()
        answer = Answer(
            format="cloister answer 1",
            charter=self._digest,
            round=number,
            sequence=newest.sequence,
            head=newest.head,
            committed=self._committed(ledger),
        )
        return Standing(
            answer=answers.sign(answer, key=self._key),
            elsewhere=self._elsewhere(model),
            open=bool(self._open(ledger)),
        )

    def learn(self, shown: Iterable[SignedAnswer], *, ledger: Ledger) -> int:
        """Writes down which cohorts answers show to be void. Returns how many."""
        found = answers.void(self._open(ledger), answers=shown, ledger=ledger)
        if found:
            self._records.void([Voided(self._digest, each) for each in sorted(found)])
        return len(found)

    def _committed(self, ledger: Ledger) -> tuple[Committed, ...]:
        """The cohorts that an answer lists."""
        committed = self._records.commits(self._digest).values()
        return tuple(self._told(each) for each in self._still_open(committed, ledger))

    def _open(self, ledger: Ledger) -> list[Committed]:
        """All cohorts that the owner agreed to, and that are neither released nor void to it."""
        agreed: list[Agreed] = [*self._records.consents(self._digest), *self._records.commits(self._digest).values()]
        found = {each.cohort: self._told(each) for each in self._still_open(agreed, ledger)}
        return list(found.values())

    def _still_open(self, agreed: Iterable[Agreed], ledger: Ledger) -> list[Agreed]:
        """Those that are neither released nor void."""
        released = ledger.cohorts  # most of a long study's are here, and only the others are looked up
        found = [each for each in agreed if each.cohort not in released]
        return [each for each in found if not self._records.is_void(self._digest, each.cohort)]

    def _told(self, entry: Agreed) -> Committed:
        members = (self._keys.get(each, each) for each in entry.members)
        return Committed(entry.round, entry.cohort, entry.model, answers.mask(members, charter=self._charter))

    def _elsewhere(self, model: bytes) -> tuple[tuple[str, ...], ...]:
        """As this charter calls the members; those that it does not list stay what they are."""
        agreed = {each.members for each in self._records.consented_elsewhere(model, charter=self._digest)}
        committed = self._records.committed_on(model, charter=self._digest)
        agreed |= {each.members for each in committed if each.charter != self._digest}
        return tuple(sorted({tuple(sorted(self._keys.get(each, each) for each in ids)) for ids in agreed})[:ELSEWHERE])
