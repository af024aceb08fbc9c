"""Attack: keep an owner out of every mean, by saying to have agreed to cohorts of all others but it.

An owner says with each answer which cohorts on the model it has committed, and which it agreed to under other charters,
so that one is found that a quorum will commit. Nobody can check that. What fewer than ``floor`` - 1 say, of whom one at
least keeps its word, leaves out only those who say it; and of commits others' answers show more than anybody's word.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloister.ledger import answers, cohorts
from cloister.ledger.answers import Answer, Committed
from cloister.wire import rounds as w
from tests.attacks.gathering import Gathering
from tests.support import charters
from tests.support.owners import agree, key_of

FIVE = ("alice", "bob", "chuck", "dora", "emil")
ROUNDS = 3
ALL = [set(FIVE)] * ROUNDS


def cohorts_beside(liar: str, *, victim: str, committed: bool) -> list[set[str]]:
    """The members of each round, where one of five owners lies about what it has committed, or agreed to elsewhere."""
    study = Gathering(agree(owners=FIVE, floor="3", largest_share="0.4", job={"rounds": ROUNDS}))
    without = tuple(sorted(key_of(name) for name in FIVE if name != victim))

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if isinstance(message, w.Ready):
            standing = message.standing
            if committed:
                lie = Committed(
                    message.round, bytes(32), study.instance.ledger.model, answers.mask(without, charter=study.charter)
                )
                told = msgspec.msgpack.decode(standing.answer.answer, type=Answer)
                answer = msgspec.structs.replace(told, committed=(lie,))
                standing = w.Standing(answers.sign(answer, key=charters.key_of(liar)))
            else:
                standing = msgspec.structs.replace(standing, elsewhere=(without,))
            message = msgspec.structs.replace(message, standing=standing)
        return [(message, body)]

    study.nodes[liar].spoil = spoil
    study.run()
    names = {key_of(name): name for name in FIVE}
    return [{names[key] for key in receipt.members} for receipt in study.instance.ledger.receipts]


def test_if_each_word_were_believed_an_owner_would_be_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_believed", lambda owners, *, floor: True)
    assert cohorts_beside("alice", victim="emil", committed=False) == [set(FIVE) - {"emil"}] * ROUNDS


def test_an_owner_that_says_so_leaves_out_itself() -> None:
    assert cohorts_beside("alice", victim="emil", committed=False) == [set(FIVE) - {"alice"}] * ROUNDS


def test_what_an_owner_says_to_have_committed_leaves_out_nobody() -> None:
    """A quorum is willing without it."""
    assert cohorts_beside("alice", victim="emil", committed=True) == ALL
