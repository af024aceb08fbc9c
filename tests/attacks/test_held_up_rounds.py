"""Attack: be in a round and hold it up, so that the others never get a result, and spend their budgets for nothing.

An owner can be silent at every step, or die there. Before all have consented it is left out, after that it is not
needed; and what came to nothing is given back once owners have answered later rounds without it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloister.ledger import answers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.records import cohort_digest, decode_cohort
from cloister.wire import rounds as w
from tests.attacks.gathering import Gathering, Said, silent_on
from tests.support import charters
from tests.support.owners import agree, agreed, key_of

FOUR = ("alice", "bob", "chuck", "dora")
THREE = FOUR[:3]
ROUNDS = 2


def gathering() -> Gathering:
    """Four owners, of whom three are a cohort and a quorum. Each has a budget of two rounds, as many as there are."""
    return Gathering(agree(owners=FOUR, floor="3", rounds=str(ROUNDS), jobs=[agreed(rounds=ROUNDS)]))


def spent(study: Gathering) -> list[int]:
    return [study.nodes[name].records.spent("#mri") for name in FOUR]


def go_on(study: Gathering, *, times: int = 1) -> None:
    """Time passes until something has to be done, and all that can be said is said."""
    for _ in range(times):
        if study.instance.rounds.due is not None:
            study.instance.tick()
        study.settle()


def as_it_is(message: Any, body: bytes) -> list[Said]:
    return [(message, body)]


def dying_at(study: Gathering, name: str, kind: type) -> None:
    """This owner's connection ends instead of a message."""

    def spoil(message: Any, body: bytes) -> list[Said]:
        if not isinstance(message, kind):
            return [(message, body)]
        study.instance.disconnect(name)
        return []

    study.nodes[name].spoil = spoil


def said_by(study: Gathering, name: str) -> list[Any]:
    """All that an owner says from now on, which goes its way."""
    said: list[Any] = []

    def spoil(message: Any, body: bytes) -> list[Said]:
        said.append(message)
        return [(message, body)]

    study.nodes[name].spoil = spoil
    return said


# One that is silent, or dies, costs time


@pytest.mark.parametrize("kind", [w.Ready, w.Consent, w.Contribution, w.Commit], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dies", [False, True], ids=["silent", "dying"])
def test_whoever_is_silent_or_dies_at_a_step_costs_nobody_a_round(kind: type, dies: bool) -> None:
    study = gathering()
    said = said_by(study, "alice")
    if dies:
        dying_at(study, "dora", kind)
    else:
        study.nodes["dora"].spoil = silent_on(kind)
    study.run()
    go_on(study, times=4)
    in_it = THREE if kind is not w.Commit else FOUR
    cohorts = [in_it, THREE if dies else in_it]  # who has died is in no later one
    study.check(*cohorts)
    assert spent(study)[:3] == [ROUNDS] * 3
    assert [each.round for each in said if isinstance(each, w.Ready)] == [1, 2], "nobody trains twice for a round"
    sent = [each.round for each in said if isinstance(each, w.Contribution)]
    assert sorted(set(sent)) == [1, 2]


def test_nothing_leaves_an_owner_before_all_have_consented() -> None:
    study = gathering()
    said = said_by(study, "alice")
    study.nodes["dora"].spoil = silent_on(w.Consent)
    study.run()
    assert [type(each) for each in said if isinstance(each, w.Consent | w.Contribution | w.Commit)] == [w.Consent]
    assert not any(study.told(name, w.Send) for name in FOUR)
    go_on(study)
    drafts = [decode_cohort(each.cohort) for each in study.told("alice", w.Draft) if each.round == 1]
    assert [len(each.shares) for each in drafts] == [4, 3]


def test_who_was_left_out_is_in_the_next_round_and_gets_its_budget_back() -> None:
    """It wrote its consent down, and nobody heard of it."""
    study = gathering()
    study.nodes["dora"].spoil = silent_on(w.Consent)
    study.run()
    assert spent(study) == [1] * 4
    study.nodes["dora"].spoil = as_it_is
    go_on(study)
    study.check(THREE, FOUR)
    assert spent(study) == [2, 2, 2, 1]


# Two of them, with whom no cohort comes together


@pytest.mark.slow
def test_rounds_that_came_to_nothing_are_given_back() -> None:
    """However many of them there were: more than the budget has rounds."""
    study = gathering()
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = silent_on(w.Consent)
    study.run()
    numbers = set()
    for _ in range(60):
        go_on(study)
        numbers.add(study.instance.rounds._course.highest)
        assert max(spent(study)) <= 1
    assert not study.instance.ledger.released
    assert len(numbers) > 2 * ROUNDS
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = as_it_is
    go_on(study, times=10)
    study.check(FOUR, FOUR)
    assert spent(study) == [ROUNDS] * 4


def test_with_one_round_left_it_takes_a_round_in_which_nobody_trains() -> None:
    """They decline the round for want of budget, which answers it; the answers give the budget back."""
    study = Gathering(agree(owners=FOUR, floor="3", rounds="1", jobs=[agreed(rounds=1)]))
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = silent_on(w.Consent)
    study.run()
    assert spent(study) == [1] * 4
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = as_it_is
    go_on(study, times=10)
    study.check(FOUR)
    assert spent(study) == [1] * 4
    assert any("allows 1" in note for note in study.nodes["alice"].notes)


@pytest.mark.slow
def test_many_rounds_that_were_committed_by_some_and_never_released() -> None:
    """An instance after another dies after two of four have committed. Then all five are there, at one that stays."""
    study = Gathering(agree(owners=(*FOUR, "emil"), floor="3", rounds="30", jobs=[agreed(rounds=30)]))
    for seed in range(20):
        study.restart(seed=seed)
        for name in ("chuck", "dora"):
            study.nodes[name].garble = lambda heard: heard
            study.nodes[name].spoil = silent_on(w.Commit)
        study.join(*FOUR, "rosa")
        study.submit()
        for _ in range(10_000):
            for name in ("chuck", "dora"):  # cut off before they hear what they would commit
                waiting = study.instance.heard.get(key_of(name), ())
                if any(isinstance(each.message, w.Settle) for each in waiting):
                    study.instance.disconnect(name)
                    study.nodes[name].member.disconnected()
            if not study.step():
                break
        assert not study.instance.ledger.released
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = as_it_is
    study.restart(seed=99)
    study.join()
    study.submit()
    study.settle(steps=100_000)
    assert study.instance.ledger.released == 30


def test_nothing_is_given_back_that_may_still_be_released() -> None:
    """Two have committed, and the instance that asked them has died. If a third commits, there is a record of it."""
    study = gathering()
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = silent_on(w.Commit)
    study.run()
    assert not study.instance.ledger.released
    study.instance.tick(seconds=1e6)
    assert study.instance.rounds._course.under_way, "no clock ends this"
    study.restart(seed=1)
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = as_it_is
    study.run()
    go_on(study, times=4)
    assert spent(study) == [ROUNDS] * 4
    assert study.instance.ledger.released == 1


def test_who_comes_late_commits_and_nobody_trains_again() -> None:
    study = gathering()
    for name in ("chuck", "dora"):
        dying_at(study, name, w.Commit)
    study.run()
    assert not study.instance.ledger.released
    for name in ("chuck", "dora"):
        study.nodes[name].spoil = as_it_is
        study.join(name)
    study.settle()
    study.check(FOUR, FOUR)
    assert spent(study) == [ROUNDS] * 4


# Lies


def lying(study: Gathering, name: str, listed: list[Committed]) -> None:
    """This owner says in its answers that it has committed something."""

    def spoil(message: Any, body: bytes) -> list[Said]:
        if isinstance(message, w.Ready) and listed:
            answer = msgspec.msgpack.decode(message.standing.answer.answer, type=Answer)
            signed = answers.sign(msgspec.structs.replace(answer, committed=tuple(listed)), key=charters.key_of(name))
            message = msgspec.structs.replace(message, standing=w.Standing(signed))
        return [] if isinstance(message, w.Consent) and not listed else [(message, body)]

    study.nodes[name].spoil = spoil


def test_one_liar_keeps_no_budget_spent() -> None:
    """Three of four have to leave a cohort out, and there are three without it."""
    study = gathering()
    listed: list[Committed] = []
    lying(study, "dora", listed)
    study.nodes["chuck"].spoil = silent_on(w.Consent)
    study.run()
    assert spent(study) == [1] * 4
    cohort = study.told("dora", w.Draft)[0].cohort
    members = answers.mask(map(key_of, FOUR), charter=study.charter)
    listed.append(Committed(1, cohort_digest(cohort), decode_cohort(cohort).model, members))
    study.nodes["chuck"].spoil = as_it_is
    go_on(study, times=4)
    study.check(FOUR, THREE)  # it did not ask for the answers, and is the only one that still has a round to get back
    assert spent(study)[:3] == [ROUNDS] * 3
    digest = study.charter.digest
    assert all(study.nodes[name].records.is_void(digest, cohort_digest(cohort)) for name in THREE)


def test_one_that_leaves_out_what_others_have_committed_frees_nothing() -> None:
    """Two have committed, and a third answers without it. It may still be released, so that it binds and is spent."""
    study = gathering()
    dying_at(study, "chuck", w.Commit)
    study.nodes["dora"].spoil = silent_on(w.Commit)
    study.nodes["dora"].member._answering._committed = lambda ledger: ()  # type: ignore[method-assign]
    study.run()
    study.restart(seed=1)
    study.join("alice", "bob", "dora", "rosa")
    study.submit()
    study.settle()
    go_on(study, times=4)
    assert not study.instance.ledger.released
    assert spent(study) == [1] * 4
    assert not any(study.nodes[name].records._of(study.charter.digest).void for name in FOUR)
    study.nodes["chuck"].spoil = as_it_is
    study.join("chuck")
    study.settle()
    assert study.cohorts() == [list(FOUR)]  # the same owners again
