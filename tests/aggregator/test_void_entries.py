"""What owners list as committed is told apart by whole entries when a cohort is chosen."""

from __future__ import annotations

from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.standings import Standings
from cloister.ledger import answers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Ledger
from cloister.wire.rounds import Standing
from tests.support import charters
from tests.support.owners import OWNERS, agree, key_of


def test_a_liar_makes_no_cohort_void_by_its_digest() -> None:
    charter = agree()
    members = answers.mask(map(key_of, OWNERS), charter=charter)
    others = answers.mask([key_of("bob"), key_of("chuck")], charter=charter)
    cohort = Committed(1, bytes(32), charter.limits.first_model or b"", members)
    false = Committed(1, bytes(32), charter.limits.first_model or b"", others)
    standings, peers = (
        Standings(2, ledger=Ledger(charter)),
        {each.name: ConnectedMember(each) for each in charter.owners},
    )
    for name, listed in {"alice": cohort, "bob": false, "chuck": cohort}.items():
        answer = Answer("cloister answer 1", charter.digest, 2, 0, b"", (listed,))
        standings.take(peers[name], Standing(answers.sign(answer, key=charters.key_of(name))))
    bound = standings.bound(peers.values())
    assert bound[key_of("alice")].committed == {frozenset(map(key_of, OWNERS))}
    assert not bound[key_of("bob")].committed  # two answers without it make the false one void
