"""The settings that are searched: each pair of cohorts up to names, all cohorts of a few owners, some by chance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations

from tests.release.instance import Check, halted, overspent
from tests.release.rules import RULES, START, Charter, Cohort, Setting

HONEST = "abcdefgh"
LIARS = "xyz"


def owners(number: int, liars: int) -> tuple[str, str]:
    """All owners, and those of them who lie."""
    return HONEST[: number - liars] + LIARS[:liars], LIARS[:liars]


def pairs(number: int, floor: int, liars: int, *, rules: frozenset[str] = RULES, last: int = 2) -> Iterator[Setting]:
    """A setting for each two cohorts, up to names: of one round, of two rounds, and one after the other's release.

    Two are enough: a promise is about two releases, or about one of which there are answers with and without another.
    """
    names, lying = owners(number, liars)
    charter = (Charter(names, floor),)
    drawn: set[tuple[str, str]] = set()
    for one, other in _two(names, lying):
        if min(len(one), len(other)) < floor or (one, other) in drawn:
            continue
        drawn.add((one, other))
        kinds = [(1, START), (2, START), (2, 0)] if one != other else [(2, START), (2, 0)]
        for number_of, after in kinds:
            if number_of == 1 and len(one) < len(other):
                continue  # of one round: it does not matter which is called the first
            yield Setting(charter, (Cohort(1, one), Cohort(number_of, other, after)), lying, rules, last)


def _two(names: str, lying: str) -> Iterator[tuple[str, str]]:
    """Two sets of owners; of those who are honest, and of those who lie, only their numbers matter."""
    groups = [group for group in ("".join(o for o in names if o not in lying), lying) if group]
    splits = [list(_split(group)) for group in groups]
    for first in splits[0]:
        for second in splits[1] if len(splits) > 1 else [("", "")]:
            yield first[0] + second[0], first[1] + second[1]


def _split(group: str) -> Iterator[tuple[str, str]]:
    """So many are in the first alone, in both, in the second alone, in neither."""
    for a, b, c in combinations(range(len(group) + 3), 3):
        first, both, second = a, b - a - 1, c - b - 1
        yield group[: first + both], group[first : first + both + second]


def everything(number: int, floor: int, liars: int, rounds: int, *, rules: frozenset[str] = RULES) -> Setting:
    """All cohorts of all rounds, each on the charter's model."""
    names, lying = owners(number, liars)
    menu = tuple(
        Cohort(each, "".join(members))
        for each in range(1, rounds + 1)
        for size in range(floor, number + 1)
        for members in combinations(names, size)
    )
    return Setting((Charter(names, floor),), menu, lying, rules, rounds)


def drawn(chance: random.Random, *, largest: int = 7, rules: frozenset[str] = RULES) -> Setting:
    """A setting of up to ``largest`` owners, ``floor`` - 2 of whom lie, with cohorts that get into each other's way."""
    number = chance.randint(3, largest)
    floor = chance.randint(2, min(number, 5))
    names, lying = owners(number, floor - 2)
    menu: list[Cohort] = []
    members = chance.sample(names, chance.randint(floor, number))
    for _ in range(chance.randint(2, 6)):
        if chance.random() < 0.7 and menu:  # near to one that there is
            members = list({*chance.choice(menu).members} ^ {*chance.sample(names, chance.randint(1, floor - 1))})
        if len(members) < floor:
            members = chance.sample(names, chance.randint(floor, number))
        after = chance.choice([START, START, *range(len(menu))])
        least = 1 if after == START else menu[after].round + 1
        menu.append(Cohort(chance.randint(least, max(least, 3)), "".join(sorted(members)), after))
    return Setting((Charter(names, floor),), tuple(menu), lying, rules, last=max(each.round for each in menu) + 1)


def two_charters(*, rules: frozenset[str] = RULES, last: int = 1) -> Setting:
    """Two charters with two owners in common, who are near to themselves in cohorts of either."""
    menu = (Cohort(1, "ab"), Cohort(1, "abd", charter=1))
    return Setting((Charter("abc", 2), Charter("abd", 2)), menu, "", rules, last)


def without(rule: str) -> tuple[list[Setting], tuple[Check, ...]]:
    """Settings in which it shows that a rule is missing, and what has to be asked there."""
    rules = RULES - {rule}
    if rule == "far across charters":
        return [two_charters(rules=rules)], ()
    if rule == "all members consent":  # what a quorum that lies could do to a member without its word
        return [Setting((Charter("axy", 2),), (Cohort(1, "ax"),), "xy", rules, 1)], ()
    checks: dict[str, tuple[Check, ...]] = {
        "consents come first": (halted,),
        "answers of all models": (overspent,),
        "whole entries": (overspent,),
    }
    settings = [*pairs(3, 2, 0, rules=rules), *pairs(4, 3, 1, rules=rules)]
    settings.sort(key=lambda each: each.menu[1].round)  # most show within one round, which has the fewest states
    return settings, checks.get(rule, ())
