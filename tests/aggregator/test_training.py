"""The first part of a round: each owner answers once, and with something new."""

from __future__ import annotations

import pytest

from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.training import Training
from cloister.errors import RoundError
from cloister.wire.rounds import Ready
from tests.support.owners import agree, key_of

USED = bytes(32)


def begun() -> tuple[Training, dict[str, ConnectedMember]]:
    charter = agree()
    members = {member.name: ConnectedMember(member) for member in charter.members}
    limits = charter.limits
    training = Training(1, digest=bytes(32), owners={"alice", "bob"}, limits=limits, until=1.0, used=frozenset({USED}))
    return training, members


def ready(number: int) -> Ready:
    return Ready(1, 10, 1.0, 0.0, {}, bytes([number]) * 32)


def test_an_owner_answers_once() -> None:
    training, members = begun()
    training.ready(members["bob"], ready(1))
    with pytest.raises(RoundError, match="has answered already"):
        training.ready(members["bob"], ready(2))
    with pytest.raises(RoundError, match="was not asked"):
        training.ready(members["chuck"], ready(3))
    assert training.answers["bob"].commitment == ready(1).commitment
    assert training.signed.keys() == {key_of("bob")}


def test_a_commitment_is_used_once() -> None:
    training, members = begun()
    with pytest.raises(RoundError, match="used once"):
        training.ready(members["bob"], ready(0))  # in an earlier round
    training.ready(members["alice"], ready(1))
    training, members = begun()
    training.ready(members["bob"], ready(1))
    with pytest.raises(RoundError, match="used once"):
        training.ready(members["alice"], ready(1))  # in this one
