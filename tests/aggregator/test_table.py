"""The aggregator's tables: what is not in them is refused, and the page says what they say."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest

from cloister.aggregator.protocol import REFUSALS
from cloister.aggregator.table import FOLLOWING, MESSAGES, Phase, Standing, check
from cloister.charter.charter import Role
from cloister.errors import RoundError
from cloister.wire import rounds as w
from tools import protocol_page

SIGNATURE = w.MemberSignature("sha256:" + "0" * 64, b"", b"")
STANDING = w.Standing(w.SignedAnswer(b"", SIGNATURE))
SENT = [
    w.Chain(1, ()),
    w.Join(0, b"", 0, False),
    w.Ready(3, 8, 1.0, 0.0, {}, bytes(32), STANDING),
    w.Contribution(3, bytes(32)),
    w.Declined(3, ""),
    w.Consent(3, bytes(32), SIGNATURE),
    w.Commit(3, SIGNATURE),
    w.Submit(1),
    w.Resubmitted(),
    w.Stop(),
    w.HandOver(0),
    w.Resubmit(bytes(32)),
    w.Work(bytes(32)),
    w.Propose(3, bytes(32), bytes(32), 1, b"", bytes(32), 1.0),
    w.Send(3),
    w.Answers(3, ()),
    w.Draft(3, b""),
    w.Settle(3, b"", bytes(32), ()),
    w.Over(3, ""),
    w.Refused(3, "round", ""),
    w.Accepted(bytes(32), 0),
    w.Waiting(""),
    w.Finished(bytes(32), 0, ""),
    w.Out(3, {}),
    w.Ask(),
    w.Status("", 0, 0, 0, "", "", 0, ()),
]
EXAMPLES: dict[type[Any], Any] = {type(each): each for each in SENT}


def test_there_is_an_example_of_every_message() -> None:
    assert set(EXAMPLES) == set(get_args(w.RoundMessage))


def test_the_page_is_made_from_the_tables() -> None:
    assert protocol_page.PAGE.read_text(encoding="utf-8") == protocol_page.page(), "run python -m tools.protocol_page"
    assert f"with {REFUSALS}\n" in protocol_page.page()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_message_is_taken_where_the_table_has_it_and_nowhere_else(kind: type[Any]) -> None:
    row = MESSAGES.get(kind)
    for role, standing, phase in product(get_args(Role), Standing, Phase):
        if row and role in row.roles and standing in row.standings and phase in row.phases:
            check(EXAMPLES[kind], role=role, standing=standing, phase=phase)
        else:
            with pytest.raises(RoundError):
                check(EXAMPLES[kind], role=role, standing=standing, phase=phase)


def test_nobody_but_owners_takes_part_in_a_round() -> None:
    for kind in (w.Ready, w.Contribution, w.Declined, w.Consent, w.Commit):
        assert MESSAGES[kind].roles == ("owner",)
        assert MESSAGES[kind].standings == (Standing.UP_TO_DATE,)


def test_a_refusal_names_the_round() -> None:
    with pytest.raises(RoundError, match="too late: round 3 does not wait for owners to train"):
        check(EXAMPLES[w.Ready], role="owner", standing=Standing.UP_TO_DATE, phase=Phase.COMMITTING)


def test_every_phase_can_be_left_and_reached() -> None:
    assert set(FOLLOWING) == set(Phase)
    assert {after for following in FOLLOWING.values() for after in following} == set(Phase)
    assert all(phase not in following for phase, following in FOLLOWING.items())


def test_a_round_that_is_committed_was_collected_and_one_that_is_collected_was_trained() -> None:
    before = {phase: [each for each, following in FOLLOWING.items() if phase in following] for phase in Phase}
    assert before[Phase.COMMITTING] == [Phase.BETWEEN, Phase.COLLECTING]
    assert before[Phase.COLLECTING] == [Phase.TRAINING]
    assert before[Phase.TRAINING] == [Phase.BETWEEN]
