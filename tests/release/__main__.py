"""Searches more settings than the tests do, and prints what it finds: ``python -m tests.release``, some minutes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

from tests.release.instance import Check, halted, overtaken, refused, waiting
from tests.release.rules import RULES, SHOWN_HEADS, Charter, Cohort, Setting
from tests.release.search import GOING_ON, explore_all, walk
from tests.release.settings import drawn, everything, pairs, two_charters, without

SCHEDULES = 5000


def report(name: str, settings: Iterable[Setting], *checks: Check) -> None:
    began, listed = time.monotonic(), list(settings)
    found = explore_all(listed, *checks)
    cut = f", {found.cut} settings cut short" if found.cut else ""
    print(f"{name}: {len(listed)} settings, {found.states} states{cut}, {time.monotonic() - began:.1f} s")
    print(f"    {found}", flush=True)


def sample(settings: Iterable[Setting], number: int) -> list[Setting]:
    listed = list(settings)
    return random.Random(0).sample(listed, min(number, len(listed)))


def schedules() -> None:
    began, released, void = time.monotonic(), 0, 0
    for seed in range(SCHEDULES):
        chance = random.Random(seed)
        setting = drawn(chance)
        found = walk(setting, chance)
        released, void = released + found.released, void + found.void
        if found.fault:
            print(f"schedule {seed}: {setting}\n    {found.fault}\n    after: {'; '.join(found.story)}")
            return
    print(f"{SCHEDULES} schedules by chance, up to 7 owners: {released} releases, {void} void cohorts, ", end="")
    print(f"{time.monotonic() - began:.1f} s\n    nothing found", flush=True)


def main() -> None:
    print("All rules (owners/floor/liars; every pair of cohorts, unless it says otherwise)")
    report("3/2/0, and that it goes on", pairs(3, 2, 0), *GOING_ON)
    report("4/3/1, and that it goes on", pairs(4, 3, 1), *GOING_ON)
    report("3/2/0, all cohorts of one round", [everything(3, 2, 0, 1)], *GOING_ON)
    report("3/2/0, answers to a third round, a third of the pairs", sample(pairs(3, 2, 0, last=3), 4))
    report("4/2/0, a third of the pairs", sample(pairs(4, 2, 0), 12))
    report("5/3/1, some pairs", sample(pairs(5, 3, 1), 8))
    report("two charters", [two_charters(last=1), two_charters(last=2)])
    schedules()
    print("\nEach rule dropped once")
    for rule in sorted(RULES):
        settings, checks = without(rule)
        report(rule, settings, *checks)
    print("\nOne liar too many")
    for number, floor in ((3, 2), (4, 2), (4, 3), (5, 3)):
        report(f"{number}/{floor}/{floor - 1}", pairs(number, floor, floor - 1))
    print("\nWhen an instance gives a round up")
    report("a quorum cannot come any more", pairs(3, 2, 0), waiting(refused))
    report("or it was overtaken", pairs(3, 2, 0), waiting(refused, overtaken))
    print("\nTwo near cohorts that are both open, of five owners")
    for later in (1, 2):
        menu = (Cohort(1, "ab"), Cohort(later, "abc"))
        report(f"rounds 1 and {later}", [Setting((Charter("abcde", 2),), menu, last=2)], halted)
    print("\nAnswers judged by the ledger that they name")
    report("3/2/0, and that it goes on", pairs(3, 2, 0, rules=SHOWN_HEADS), *GOING_ON)
    report("4/3/1", pairs(4, 3, 1, rules=SHOWN_HEADS))


if __name__ == "__main__":
    main()
