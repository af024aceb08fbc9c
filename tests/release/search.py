"""A search for a state that breaks a promise: through all states of a setting, or along one schedule by chance."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations
from typing import Final

from tests.release.instance import Check, halted, overspent, short, waiting
from tests.release.rules import (
    START,
    Answer,
    Memory,
    Setting,
    State,
    answer,
    catch_up,
    commit,
    consent,
    forget,
    free,
    places,
    released,
    violation,
)

MOST: Final = 150_000
"""States of a setting, after which a search is cut short."""

GOING_ON: Final[tuple[Check, ...]] = (overspent, halted, waiting(short))
"""What is asked of each state and each quorum of honest owners that may be left, where a search asks for it."""


def beginning(setting: Setting) -> State:
    return (Memory(),) * len(setting.seats)


def steps(setting: Setting, state: State) -> Iterator[tuple[str, State]]:
    """What may happen next, in words, and what comes of it."""
    for seat in range(len(state)):
        for text, mine in _moves(setting, state, seat):
            after = (*state[:seat], mine, *state[seat + 1 :])
            if len(setting.charters) == 1:
                after = _eager(setting, after, seat)
            charter, owner = setting.seats[seat]
            primes = "'" * charter
            yield f"{owner}{primes} {text}", after


def play(setting: Setting, *told: str) -> State:
    """The state after steps that are told in words, as a search tells them."""
    state = beginning(setting)
    for text in told:
        state = dict(steps(setting, state))[text]
    return state


def _moves(setting: Setting, state: State, seat: int) -> Iterator[tuple[str, Memory]]:
    for number in range(state[seat].round + 1, setting.last + 1):
        if mine := answer(setting, state, seat, number):
            yield f"answers {number}", mine
    for place, cohort in enumerate(setting.menu):
        if len(setting.charters) > 1 and (mine := consent(setting, state, seat, place)):
            yield f"consents to {cohort}", mine
        if mine := commit(setting, state, seat, place):
            yield f"commits {cohort}", mine
        if mine := free(setting, state, seat, place):
            yield f"is shown that {cohort} is void", mine
        if mine := catch_up(setting, state, seat, place):
            yield f"is shown the release of {cohort}", mine
    if mine := forget(setting, state, seat):
        yield "forgets", mine


def _eager(setting: Setting, state: State, seat: int) -> State:
    """Under one charter a consent binds nobody, so owners may as well consent to all that a round can ask of them."""
    for place in places(setting.invited[seat]):
        if mine := consent(setting, state, seat, place):
            state = (*state[:seat], mine, *state[seat + 1 :])
    return state


# States that differ in the names of honest owners only are one.


@dataclass(frozen=True)
class _Names:
    """Other names for the owners under which the menu is the same menu."""

    seats: tuple[int, ...]
    """Whose memory is at each seat then."""
    menu: tuple[int, ...]
    """Where each cohort of the menu is then."""

    @cache  # noqa: B019 - as many as there are settings, for as long as the search
    def bits(self, some: int) -> int:
        return sum(1 << self.menu[place] for place in places(some))

    def memory(self, mine: Memory) -> Memory:
        bits, head = self.bits, START if mine.head == START else self.menu[mine.head]
        answers = tuple(
            Answer(each.round, START if each.head == START else self.menu[each.head], bits(each.listed))
            for each in mine.answers
        )
        return Memory(
            mine.round, answers, bits(mine.consents), bits(mine.commits), bits(mine.void), head, bits(mine.lost)
        )


class Canonical:
    """The one of the states that are the same but for names which stands for all of them."""

    def __init__(self, setting: Setting) -> None:
        self._kinds: list[tuple[int, ...]] = []
        self._names: list[_Names] = []
        if len(setting.charters) > 1:
            return  # few states anyway
        kinds: dict[int, list[int]] = {}
        for seat, invited in enumerate(setting.invited):
            kinds.setdefault(invited, []).append(seat)
        self._kinds = [tuple(seats) for seats in kinds.values() if len(seats) > 1]
        owners = [o for _, o in setting.seats]
        known = {tuple(range(len(setting.menu)))}
        for order in permutations(owners) if len(owners) <= 4 else ():
            names = self._renaming(setting, dict(zip(owners, order, strict=True)))
            if names and names.menu not in known:  # of those that rename no cohort, sorting takes care
                known.add(names.menu)
                self._names.append(names)

    def _renaming(self, setting: Setting, to: dict[str, str]) -> _Names | None:
        place_of = {(each.round, frozenset(each.members), each.after): p for p, each in enumerate(setting.menu)}
        menu: list[int] = []
        for each in setting.menu:
            after = START if each.after == START else menu[each.after]
            place = place_of.get((each.round, frozenset(to.get(o, o) for o in each.members), after))
            if place is None:
                return None
            menu.append(place)
        owners = [o for _, o in setting.seats]
        return _Names(tuple(owners.index(o) for o in to.values()), tuple(menu))

    def _sorted(self, state: list[Memory]) -> State:
        for seats in self._kinds:
            for seat, mine in zip(seats, sorted(state[s] for s in seats), strict=True):
                state[seat] = mine
        return tuple(state)

    def __call__(self, state: State) -> State:
        least = self._sorted(list(state))
        for names in self._names:
            renamed = list(state)
            for seat, to in enumerate(names.seats):
                renamed[to] = names.memory(state[seat])
            least = min(least, self._sorted(renamed))
        return least


# The searches.


@dataclass
class Found:
    """What a search came to."""

    states: int = 0
    cut: int = 0
    """How many settings have more states than were looked at."""
    fault: str = ""
    story: tuple[str, ...] = ()
    """The fewest steps to the fault."""
    setting: Setting | None = None

    def __str__(self) -> str:
        return f"{self.fault}\n    after: {'; '.join(self.story)}" if self.fault else "nothing found"


def explore(setting: Setting, *checks: Check, most: int = MOST) -> Found:
    """Looks at all states, the nearest first, until one breaks a promise."""
    canonical = Canonical(setting)
    start = canonical(beginning(setting))
    before: dict[State, State | None] = {start: None}
    queue = deque([start])
    fault = ""
    while queue and not fault:
        state = queue.popleft()
        fault = violation(setting, state) or _stuck(setting, state, checks)
        if fault:
            return Found(len(before), 0, fault, _story(setting, canonical, before, state), setting)
        for _, then in steps(setting, state):
            after = canonical(then)
            if after not in before and len(before) < most:
                before[after] = state
                queue.append(after)
    return Found(len(before), int(len(before) >= most), setting=setting)


def _stuck(setting: Setting, state: State, checks: tuple[Check, ...]) -> str:
    seats = range(len(state))
    for size in range(setting.charters[0].quorum, len(seats) + 1) if checks else ():
        for there in combinations(seats, size):
            for check in checks:
                if fault := check(setting, state, there):
                    return fault
    return ""


def _story(setting: Setting, canonical: Canonical, before: dict[State, State | None], state: State) -> tuple[str, ...]:
    """The way to a state, walked again, so that each owner keeps its name."""
    way: list[State] = []
    at: State | None = state
    while at is not None:
        way.append(at)
        at = before[at]
    now, told = beginning(setting), []
    for then in reversed(way[:-1]):
        text, now = next(each for each in steps(setting, now) if canonical(each[1]) == then)
        told.append(text)
    return tuple(told)


def explore_all(settings: Iterator[Setting] | list[Setting], *checks: Check, most: int = MOST) -> Found:
    """One setting after the other, until one of them breaks."""
    total = Found()
    for setting in settings:
        found = explore(setting, *checks, most=most)
        total.states, total.cut = total.states + found.states, total.cut + found.cut
        if found.fault:
            return Found(total.states, total.cut, found.fault, found.story, setting)
    return total


@dataclass
class Walk:
    """One schedule, by chance."""

    fault: str
    story: tuple[str, ...]
    released: int
    void: int


def walk(setting: Setting, chance: random.Random, *, longest: int = 120) -> Walk:
    """Steps by chance until there are none."""
    state, told = beginning(setting), []
    for _ in range(longest):
        found = list(steps(setting, state))
        if not found:
            break
        text, state = chance.choices(found, [_weight(text) for text, _ in found])[0]
        told.append(text)
        if fault := violation(setting, state):
            return Walk(fault, tuple(told), 0, 0)
    void = 0
    for mine in state:
        void |= mine.void
    return Walk("", tuple(told), released(setting, state).bit_count(), void.bit_count())


def _weight(text: str) -> float:
    """Owners that went on to a late round at once would sign little: what is signed comes first, and early rounds."""
    if " answers " in text:
        return 6.0 / (1 << 2 * int(text.rsplit(maxsplit=1)[1]))
    return 4.0 if " commits " in text else 1.0
