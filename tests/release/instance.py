"""What an instance of the aggregator can bring about. Owners rely on none of it: it is about going on.

An instance begins with nothing but the owners that are there. It shows each of them the longest ledger, has them answer
a new round, shows everybody all answers, and looks for a cohort to which all members consent and which a quorum
commits. Everything here is about the first charter.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from tests.release.rules import Cohort, Memory, Setting, State, agreed, answer, commit, free, on_way, places

Check = Callable[[Setting, State, tuple[int, ...]], str]
"""What is wrong with a state for the owners that are there, or nothing."""


def begun(setting: Setting, state: State, there: tuple[int, ...]) -> State | None:
    """The owners that are there, once they answered a new round and saw one another's answers; None: ledgers forked.

    It has the answers of nobody else, and none of earlier rounds: what an instance before it was told is gone with it.
    """
    newest = max((state[s].head for s in there), key=lambda head: setting.ledgers[head].bit_count())
    if not all(on_way(setting, state[s].head, newest) for s in there):
        return None
    told = [Memory()] * len(state)
    for s in there:
        told[s] = state[s]._replace(answers=(), head=newest)
        told[s] = answer(setting, tuple(told), s, setting.last + 1) or told[s]
    after = list(told)
    for s in there:
        for place in range(len(setting.menu)):
            if free(setting, tuple(told), s, place, liars=False):
                after[s] = after[s]._replace(void=after[s].void | 1 << place)
    return tuple(after)


def open_cohorts(setting: Setting, state: State, there: tuple[int, ...]) -> list[int]:
    """What, for all that those who are there can know, may have been released without them."""
    listed = {place: sum(state[s].commits >> place & 1 for s in there) for place in places(setting.under[0])}
    return [place for place, count in listed.items() if len(there) - count < setting.charters[0].against]


def overspent(setting: Setting, state: State, there: tuple[int, ...]) -> str:
    """A cohort that goes on to cost budget although those who are there show that it is not released."""
    after = begun(setting, state, there)
    if after is None:
        return ""
    open_ones = open_cohorts(setting, after, there)
    for s in there:
        still = (after[s].consents | after[s].commits) & ~after[s].void & ~setting.ledgers[after[s].head]
        for place in places(still & setting.under[0]):
            if place not in open_ones:
                return f"spent for good: {setting.menu[place]} is not released, and never void"
    return ""


def halted(setting: Setting, state: State, there: tuple[int, ...]) -> str:
    """Why nothing can be released by those who are there, unless it has to be so."""
    after = begun(setting, state, there)
    if after is None or can_release(setting, after, there):
        return ""
    here = {setting.seats[s][1] for s in there}
    for place in open_cohorts(setting, after, there):
        cohort = setting.menu[place]
        absent = not here.issuperset(cohort.members)
        if absent and agreed(setting, state, place) and cohort.after == after[there[0]].head:
            return ""  # it may have been released, and cannot be made again without who is gone
    return f"halt without need, while {''.join(sorted(here))} are there"


def can_release(setting: Setting, state: State, there: tuple[int, ...]) -> bool:
    """Whether some of those who are there can be a cohort, and a quorum of them commits it.

    A new cohort is in nobody's way for its round, which is new. So it is nearness alone that an owner refuses for.
    """
    floor, names = setting.charters[0].floor, [setting.seats[s][1] for s in there]
    for size in range(floor, len(names) + 1):
        for members in combinations(names, size):
            fresh = Cohort(setting.last + 1, "".join(members), after=state[there[0]].head)
            if sum(willing(setting, state[s], fresh) for s in there) >= setting.quorums[0]:
                return True
    return False


def willing(setting: Setting, mine: Memory, fresh: Cohort) -> bool:
    """Whether an owner commits a cohort that is not on the menu, once all its members have consented."""
    if "far apart" not in setting.rules:
        return True
    others = (setting.menu[place] for place in places(mine.commits & ~mine.void & setting.from_model[fresh.after]))
    return all(not setting.is_near(fresh, each) for each in others)


def still(setting: Setting, state: State, there: tuple[int, ...], place: int) -> int:
    """How many of those who are there have committed a cohort, or do so when they are asked."""
    return sum(bool(state[s].commits >> place & 1 or commit(setting, state, s, place)) for s in there)


def refused(setting: Setting, state: State, there: tuple[int, ...], place: int) -> bool:
    """Whether so many have refused to commit a cohort that there will be no quorum, whoever comes."""
    charter = setting.charters[0]
    return len(there) - still(setting, state, there, place) > len(charter.owners) - charter.quorum


def overtaken(setting: Setting, state: State, there: tuple[int, ...], place: int) -> bool:
    """Whether another instance has led one of those who are there on to a later round, and too few are left."""
    gone_on = any(state[s].round > setting.menu[place].round for s in there)
    return gone_on and still(setting, state, there, place) < setting.quorums[0]


def short(setting: Setting, state: State, there: tuple[int, ...], place: int) -> bool:
    """Whether one of those who are there has refused, for whatever reason, and too few are left."""
    found = still(setting, state, there, place)
    return found < len(there) and found < setting.quorums[0]


def waiting(*ends: Callable[[Setting, State, tuple[int, ...], int], bool]) -> Check:
    """The check that no instance waits for ever in a round that a quorum which is there could leave behind."""

    def check(setting: Setting, state: State, there: tuple[int, ...]) -> str:
        for place, cohort in enumerate(setting.menu):
            head = all(state[s].head == cohort.after for s in there)  # else they refuse it for its ledger
            if not head or not agreed(setting, state, place) or still(setting, state, there, place) >= len(there):
                continue
            if still(setting, state, there, place) < setting.quorums[0] and not any(
                end(setting, state, there, place) for end in ends
            ):
                names = "".join(setting.seats[s][1] for s in there)
                return f"waits for ever: {cohort} comes to nothing while {names} are there, and is not given up"
        return ""

    return check
