"""The first part of a round: each owner answers once, and with something new."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.training import Training
from cloister.charter import Charter
from cloister.errors import RoundError
from cloister.ledger.chain import Ledger
from cloister.wire.rounds import Ready
from tests.support import chains
from tests.support.owners import DRAWN, OWNER, RECORD, Owner, agree


def begun(charter: Charter | None = None) -> tuple[Training, dict[str, ConnectedMember]]:
    charter = charter or agree()
    members = {member.name: ConnectedMember(member) for member in charter.members}
    training = Training(1, digest=bytes(32), owners={"alice", "bob"}, ledger=Ledger(charter), until=1.0)
    return training, members


def ready(number: int, name: str = "bob") -> Ready:
    return Ready(1, 10, 1.0, 0.0, {}, bytes([number]) * 32, Owner(name, agree()).standing(1))


def test_an_owner_answers_once() -> None:
    training, members = begun()
    training.ready(members["bob"], ready(1))
    with pytest.raises(RoundError, match="has answered already"):
        training.ready(members["bob"], ready(2))
    with pytest.raises(RoundError, match="was not asked"):
        training.ready(members["chuck"], ready(3))
    assert training.answers["bob"].commitment == ready(1).commitment
    assert training.standings.answers == (ready(1).standing.answer,)


def test_a_commitment_is_used_once() -> None:
    training, members = begun()
    training.ready(members["bob"], ready(1))
    with pytest.raises(RoundError, match="used once"):
        training.ready(members["alice"], ready(1, "alice"))


def test_a_commitment_of_an_earlier_round_is_used() -> None:
    ledger = chains.chain(1)
    used = ledger.receipts[0].cohort.shares[0].commitment
    bob = next(each for each in ledger.charter.owners if each.name == "bob")
    training = Training(2, digest=bytes(32), owners={"bob"}, ledger=ledger, until=1.0)
    least = ledger.charter.limits.min_examples
    with pytest.raises(RoundError, match="used once"):
        training.ready(ConnectedMember(bob), Ready(2, least, 1.0, 0.0, {}, used, ready(1).standing))


def test_who_changes_nothing_is_ready_where_noise_hides_it_and_nowhere_else() -> None:
    nothing = replace(ready(1), norm=0.0)
    for charter in (agree(noise=OWNER), agree(noise=RECORD, job=DRAWN)):
        training, members = begun(charter)
        training.ready(members["bob"], replace(nothing, standing=Owner("bob", charter).standing(1)))
        assert training.answers["bob"].norms == (0.0, 0.0)
    training, members = begun()
    with pytest.raises(RoundError, match="norms are numbers of at most"):
        training.ready(members["bob"], nothing)
