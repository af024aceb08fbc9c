"""Attack: keep an owner out of every mean, by saying to have signed for all others but it.

An owner says with each contribution which cohorts on the model it has signed, so that one is found that nobody will
refuse. Nobody can check that. What fewer than ``floor`` - 1 say, of whom one at least keeps its word, leaves out
only those who say it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloister.ledger import cohorts
from cloister.wire import rounds as w
from tests.attacks.gathering import Gathering
from tests.support.owners import agree, key_of

FIVE = ("alice", "bob", "chuck", "dora", "emil")
ROUNDS = 3


def cohorts_beside(liar: str, *, victim: str) -> list[set[str]]:
    """The members of each round, where one of five owners lies about what it has signed."""
    study = Gathering(agree(owners=FIVE, floor="3", largest_share="0.4", job={"rounds": ROUNDS}))
    without = tuple(sorted(key_of(name) for name in FIVE if name != victim))

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if isinstance(message, w.Ready):
            message = msgspec.structs.replace(message, signed=(without,))
        return [(message, body)]

    study.nodes[liar].spoil = spoil
    study.run()
    names = {key_of(name): name for name in FIVE}
    return [{names[key] for key in receipt.members} for receipt in study.instance.ledger.receipts]


def test_if_each_word_were_believed_an_owner_would_be_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "_believed", lambda owners, *, floor: True)
    assert cohorts_beside("alice", victim="emil") == [set(FIVE) - {"emil"}] * ROUNDS


def test_an_owner_that_says_so_leaves_out_itself() -> None:
    assert cohorts_beside("alice", victim="emil") == [set(FIVE) - {"alice"}] * ROUNDS
