"""Release in two phases: no state breaks a promise, each rule is needed, and what the rules do not achieve.

``python -m tests.release`` searches more settings, and prints for each rule the shortest way to what it prevents.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.release.instance import begun, can_release, halted, overspent, overtaken, refused, short
from tests.release.rules import RULES, SHOWN_HEADS, Charter, Cohort, Setting, commit, consent, is_void, violation
from tests.release.search import GOING_ON, explore, explore_all, play, walk
from tests.release.settings import drawn, pairs, two_charters, without

PROMISES = {
    "a quorum commits": "round: ",
    "all members consent": "consent: ",
    "answers list commits": "budget: ",
    "answers of all models": "spent for good: ",
    "consents come first": "halt ",
    "enough answers": "budget: ",
    "far across charters": "near: ",
    "far apart": "near: ",
    "known heads": "budget: ",
    "later answers": "budget: ",
    "no way back": "budget: ",
    "not what is released": "budget: ",
    "one cohort a round": "round: ",
    "owners remember": "budget: ",
    "whole entries": "spent for good: ",
}
"""What is broken first where a rule is missing."""


# Safety


@pytest.mark.parametrize("floor", range(2, 9))
def test_void_and_released_exclude_each_other_by_their_numbers(floor: int) -> None:
    for number in range(floor, 30):
        charter = Charter("o" * number, floor)
        assert charter.quorum + charter.against == number + floor - 1  # one more than liars in both, and one is honest
        assert 2 * charter.quorum - number >= floor - 1  # so have two quorums
        assert charter.quorum <= number


@pytest.mark.slow
def test_no_two_cohorts_of_three_owners_break_a_promise() -> None:
    found = explore_all(pairs(3, 2, 0))
    assert (found.fault, found.cut) == ("", 0)
    assert found.states > 20_000


@pytest.mark.slow
def test_no_two_cohorts_of_four_owners_of_whom_one_lies_break_a_promise() -> None:
    found = explore_all(list(pairs(4, 3, 1))[::3], *GOING_ON)
    assert (found.fault, found.cut) == ("", 0)
    assert found.states > 5_000


@pytest.mark.slow
def test_a_study_goes_on_with_any_quorum_that_stays() -> None:
    found = explore_all(list(pairs(3, 2, 0))[::4], *GOING_ON)
    assert (found.fault, found.cut) == ("", 0)
    assert found.states > 2_000


@given(seed=st.integers(0, 2**32))
def test_no_schedule_of_up_to_seven_owners_breaks_a_promise(seed: int) -> None:
    chance = random.Random(seed)
    setting = drawn(chance)
    found = walk(setting, chance)
    assert not found.fault, (setting, found.story)


@pytest.mark.slow
def test_schedules_by_chance_are_worth_it() -> None:
    released = void = 0
    for seed in range(60):
        chance = random.Random(seed)
        found = walk(drawn(chance), chance)
        released, void = released + found.released, void + found.void
    assert released > 20
    assert void > 20


# Each rule is needed


def test_each_rule_is_dropped_once() -> None:
    assert {*PROMISES, "nothing void"} == RULES


@pytest.mark.slow
@pytest.mark.parametrize("rule", PROMISES)
def test_a_rule_that_is_missing_is_noticed(rule: str) -> None:
    settings, checks = without(rule)
    found = explore_all(settings, *checks)
    assert found.fault.startswith(PROMISES[rule])
    if found.story:  # what is told can be played, and nothing was wrong before its last step
        assert found.setting is not None
        assert not violation(found.setting, play(found.setting, *found.story[:-1]))


@pytest.mark.parametrize(("number", "floor"), [(3, 2), (4, 2), (4, 3), (5, 3)])
def test_one_liar_too_many_breaks_a_promise(number: int, floor: int) -> None:
    assert explore_all(pairs(number, floor, floor - 1)).fault.startswith("budget: ")


def told(*parts: str) -> list[str]:
    """Steps in words, with a semicolon between two."""
    return [step for part in parts for step in part.split("; ")]


def three(*menu: Cohort, rules: frozenset[str] = RULES, last: int = 3) -> Setting:
    return Setting((Charter("abc", 2),), menu, "", rules, last)


def four(*menu: Cohort, rules: frozenset[str] = RULES, last: int = 4) -> Setting:
    return Setting((Charter("abcd", 2),), menu, "", rules, last)


# An answer is about all models, and counts for those who have the ledger that it names


MEANWHILE = told(
    "a answers 1; b answers 1; a answers 2; b commits ab1; c commits ab1",
    "b is shown the release of ab1",
)
"""Alice agreed to be in a second round; then the first one is released after all, and the others are past its model."""


def test_what_came_to_nothing_on_an_earlier_model_becomes_void_by_answers_on_a_later_one() -> None:
    setting = three(Cohort(1, "ab"), Cohort(2, "ab"))
    assert not overspent(setting, play(setting, *MEANWHILE), (0, 1, 2))


def test_answers_about_one_model_only_would_leave_its_budget_spent_for_good() -> None:
    setting = three(Cohort(1, "ab"), Cohort(2, "ab"), rules=RULES - {"answers of all models"})
    assert overspent(setting, play(setting, *MEANWHILE), (0, 1, 2)).startswith("spent for good: ab2 ")


@pytest.mark.parametrize("rule", ["", "known heads", "not what is released"])
def test_answers_that_list_no_release_do_not_make_it_void(rule: str) -> None:
    """Bob saw the release and lists it no longer. Who has not seen it, or has, must not take that for a void cohort."""
    setting = three(Cohort(1, "ab"), Cohort(2, "ab"), rules=RULES - {rule})
    schedule = "a answers 1; b answers 1; b commits ab1; c commits ab1; b is shown the release of ab1; b answers 2"
    state = play(setting, *told(schedule), "a answers 2")
    assert is_void(setting, state, 0, -1) == (rule == "known heads")
    assert is_void(setting, state, 0, 0) == (rule == "not what is released")


# A list's entries are compared whole


@pytest.mark.parametrize("rule", ["", "whole entries"])
def test_two_drafts_of_a_round_do_not_keep_each_other_from_becoming_void(rule: str) -> None:
    """Alice committed one draft and Chuck the other. By the round's digest alone, each would list the other's."""
    setting = three(Cohort(1, "ab"), Cohort(1, "bc"), rules=RULES - {rule})
    state = play(setting, *told("a answers 1; b answers 1; c answers 1; a commits ab1; c commits bc1"))
    assert bool(overspent(setting, state, (0, 1, 2))) == bool(rule)


# What is void is signed by nobody who knows


@pytest.mark.parametrize("rule", ["", "nothing void"])
def test_what_an_owner_knows_to_be_void_it_does_not_sign(rule: str) -> None:
    """Within the bound on liars it could not be released anyway. With one more, it is not by the owner's own hand."""
    setting = Setting((Charter("abx", 2),), (Cohort(1, "ab"),), "x", RULES - {rule}, 2)
    state = play(setting, *told("a answers 1; b answers 1; b answers 2; a is shown that ab1 is void"))
    assert not violation(setting, state)
    mine = commit(setting, state, 0, 0)
    assert (mine is None) == (not rule)
    if mine is not None:
        assert violation(setting, (mine, *state[1:])) == "budget: ab1 is released, and is void to an owner"


@pytest.mark.slow
def test_signing_what_is_void_breaks_nothing_within_the_bound() -> None:
    found = explore_all(list(pairs(3, 2, 0, rules=RULES - {"nothing void"}))[::3])
    assert (found.fault, found.cut) == ("", 0)


# Charters with owners in common


@pytest.mark.slow
def test_near_cohorts_of_two_charters_are_not_both_released() -> None:
    assert not explore(two_charters()).fault


def test_two_quorums_of_two_charters_need_share_nobody() -> None:
    """Alice and Bob are in both cohorts, and no owner commits twice: what each of them consented to has to count."""
    setting = two_charters(rules=RULES - {"far across charters"})
    first = "a answers 1; b answers 1; a consents to ab1; b consents to ab1; a commits ab1; c commits ab1"
    second = "a' answers 1; b' answers 1; d' answers 1; a' consents to abd1'; b' consents to abd1'"
    state = play(setting, *told(first, second, "d' consents to abd1'; b' commits abd1'; d' commits abd1'"))
    assert violation(setting, state) == "near: ab1 and abd1' are both released"


def test_consenting_under_one_charter_blocks_another_until_it_is_void() -> None:
    """The price: an owner waits for answers under the first charter, which its other owners may never give."""
    setting = two_charters(last=2)
    schedule = told("a answers 1; a consents to ab1; a' answers 1")
    place, seat = 1, setting.seats.index((1, "a"))
    assert consent(setting, play(setting, *schedule), seat, place) is None
    schedule += told("b answers 2; c answers 2; a is shown that ab1 is void")
    assert consent(setting, play(setting, *schedule), seat, place)


@pytest.mark.parametrize(("floor", "broken"), [(4, False), (5, True)])
def test_from_a_floor_of_five_on_near_cohorts_of_two_charters_can_share_liars_only(floor: int, broken: bool) -> None:
    """Near cohorts share more than half a floor of owners. Under two charters it takes an honest one of them."""
    liars = "xyz"[: floor - 2]
    menu = (Cohort(1, f"ab{liars}"), Cohort(1, f"cd{liars}", charter=1))
    charters = (Charter(menu[0].members, floor), Charter(menu[1].members, floor))
    assert explore(Setting(charters, menu, liars, last=1)).fault.startswith("near: ") == broken


# When an instance gives a round up


def test_a_round_that_was_overtaken_is_given_up() -> None:
    """Dave is gone. Alice was led on by another instance: three are there, and would wait for him for ever."""
    setting = four(Cohort(1, "abc"))
    state = play(setting, *told("a answers 1; b answers 1; c answers 1; b commits abc1; c commits abc1; a answers 2"))
    there = (0, 1, 2)
    assert not refused(setting, state, there, 0)
    assert overtaken(setting, state, there, 0)
    after = begun(setting, state, there)
    assert after is not None
    assert can_release(setting, after, there)


def test_a_round_that_a_quorum_is_there_for_is_not_given_up() -> None:
    setting = four(Cohort(1, "abc"))
    state = play(setting, *told("a answers 1; b answers 1; c answers 1; b commits abc1; a answers 2"))
    assert not overtaken(setting, state, (0, 1, 2, 3), 0)
    assert not short(setting, state, (0, 1, 2, 3), 0)


def test_a_round_can_wait_for_ever_without_being_overtaken() -> None:
    """Alice committed another cohort of this very round: she refuses, though nobody led her to a later one."""
    setting = four(Cohort(1, "ad"), Cohort(1, "bc"))
    schedule = "a answers 1; d answers 1; a commits ad1; b answers 1; c answers 1; b commits bc1; c commits bc1"
    state, there = play(setting, *told(schedule)), (0, 1, 2)
    assert not refused(setting, state, there, 1)
    assert not overtaken(setting, state, there, 1)
    assert short(setting, state, there, 1)
    assert not halted(setting, state, there)


@pytest.mark.parametrize(
    ("later", "schedule"),
    [
        (2, "a answers 1; b answers 1; a answers 2; b answers 2; c commits ab1; c answers 2; a commits abc2"),
        (1, "a answers 1; b answers 1; c commits ab1; a commits abc1"),
    ],
    ids=["two rounds", "two drafts of a round"],
)
def test_two_near_cohorts_that_are_both_open_stop_a_quorum(later: int, schedule: str) -> None:
    """A hostile operator can have each committed by one of three. Neither is void without one more owner's answer.

    No honest instance asks for the second one, and it takes five owners: of fewer, those who are there void one of the
    two. That an operator can stop a study is no news; that an honest one cannot go on afterwards, with a quorum, is.
    """
    menu = (Cohort(1, "ab"), Cohort(later, "abc"))
    setting = Setting((Charter("abcde", 2),), menu, last=2)
    state = play(setting, *told(schedule))
    assert not violation(setting, state)
    assert halted(setting, state, (0, 1, 2))
    assert not halted(setting, state, (0, 1, 2, 3))


# Ledgers that forked


FORKED = told(
    "a answers 1; b answers 1; a commits ab1; b commits ab1; c commits ab1",
    "c answers 2; d answers 2; b commits cd2; c commits cd2; d commits cd2",
    "a is shown the release of ab1; b is shown the release of cd2",
    "c is shown the release of cd2; d is shown the release of cd2",
    "a answers 3; b answers 4; c answers 4; d answers 4",
)
"""Two rounds are released on the charter's model, far from each other, and Alice alone knows of the first."""


@pytest.mark.parametrize("rules", [RULES, SHOWN_HEADS], ids=["own ledger", "shown ledger"])
def test_over_a_fork_budgets_are_freed_by_a_ledger_that_is_shown_only(rules: frozenset[str]) -> None:
    """Alice consented after the first release. Nobody else ever will, but the others' answers name a head not hers."""
    setting = four(Cohort(1, "ab"), Cohort(2, "cd"), Cohort(3, "ab", after=0), rules=rules)
    state = play(setting, *FORKED)
    assert state[0].consents == 0b101
    assert is_void(setting, state, 2, state[0].head) == (rules == SHOWN_HEADS)


@pytest.mark.slow
def test_answers_may_be_judged_by_the_ledger_that_they_name() -> None:
    found = explore_all(list(pairs(3, 2, 0, rules=SHOWN_HEADS))[::2])
    assert (found.fault, found.cut) == ("", 0)
