"""The messages of rounds: who may send which, and what comes in their bodies."""

from __future__ import annotations

from typing import get_args

import pytest

from cloister.errors import LimitError, MessageError
from cloister.wire import limits, rounds, sessions
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.wire.round_bodies import check_body
from cloister.wire.rounds import Chain, Contribution, Join, Stop, Submit, Work
from cloister.wire.sessions import decode


def test_every_message_has_a_tag_of_its_own():
    tags = [kind.__struct_config__.tag for kind in get_args(rounds.RoundMessage)]
    assert len(set(tags)) == len(tags)


def test_a_round_speaks_no_other_kind():
    for kind in (Kind.BATCH, Kind.ANSWER, Kind.HELLO):
        with pytest.raises(MessageError):
            decode(kind, encode(Stop()))
    with pytest.raises(MessageError):
        decode(Kind.ROUND, encode(sessions.Done()))


@pytest.mark.parametrize(
    ("message", "length"),
    [
        (Chain(first=1, records=(3, 4)), 7),
        (Chain(first=1, records=(3, 4), model=10, rounds=1, state=(20, 30)), 67),
        (Chain(first=1, records=()), 0),
        (Join(0, b"", 0, False), 0),
        (Stop(), 0),
    ],
)
def test_bodies_are_as_long_as_their_messages_say(message, length):
    check_body(message, length)
    for wrong in {max(length - 1, 0), length + 1} - {length}:
        with pytest.raises(MessageError, match="a message that says"):
            check_body(message, wrong)


def test_bodies_that_the_receiver_has_to_judge():
    for length in (0, 4, 1 << 40):
        check_body(Contribution(1, bytes(32)), length)
    check_body(Submit(3), 3)
    check_body(Submit(3), 3000)
    with pytest.raises(MessageError):
        check_body(Submit(3), 2)
    check_body(Work(bytes(32)), limits.JOB_BYTES)
    with pytest.raises(LimitError):
        check_body(Work(bytes(32)), limits.JOB_BYTES + 1)
    with pytest.raises(MessageError):
        check_body(Work(bytes(32)), 0)
