"""The members' memory is the counter: schedules of what may happen to a study, from seeds, and what holds in all.

``CLOISTER_SCHEDULES`` is how many are played, and ``CLOISTER_SEED`` the first one's seed. A schedule in which something
does not hold prints its seed, its setting and its steps; ``CLOISTER_SCHEDULES=1 CLOISTER_SEED=...`` plays it again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.explorer.exploring import Tally, explore
from tests.explorer.mutants import MUTANTS
from tests.explorer.setting import FATES, SHAPES, Setting, remembered
from tests.explorer.watching import ViolationError

SCHEDULES: Final = int(os.environ.get("CLOISTER_SCHEDULES", "250"))
SEED: Final = int(os.environ.get("CLOISTER_SEED", "0"))
MOST: Final = 300
"""In how many schedules a rule that is switched off has to be noticed."""


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with remembered():
        yield


@pytest.mark.slow
@pytest.mark.timeout(0)  # as many as are asked for
def test_no_schedule_releases_what_must_not_be(record_property: pytest.RecordProperty) -> None:
    tally = Tally()
    for seed in range(SEED, SEED + SCHEDULES):
        explore(seed, tally)
    record_property("tally", str(tally))
    if SCHEDULES >= 100:  # what is explored is worth it: rounds are released or void, chains fork, studies finish
        assert tally.releases > tally.schedules
        assert tally.forks
        assert tally.voids
        assert tally.finished > 2 * tally.stuck.total()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", MUTANTS)
def test_the_explorer_would_notice(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[wrong]
    mutant.apply(monkeypatch)
    for seed in range(MOST):
        try:
            explore(seed, Tally(), **mutant.bent)
        except ViolationError as found:
            if re.search(mutant.said, str(found).splitlines()[0]):
                return
    pytest.fail(f"nothing is noticed in {MOST} schedules although {wrong}")


@pytest.mark.slow
def test_a_seed_is_one_schedule() -> None:
    first, second = Tally(), Tally()
    for tally in (first, second):
        for seed in range(3):
            explore(seed, tally)
    assert first == second


def test_settings_are_of_all_kinds() -> None:
    settings = [Setting.drawn(seed) for seed in range(200)]
    assert {(len(each.owners), each.floor) for each in settings} == set(SHAPES)
    assert all(len(each.traitors) <= each.floor - 2 for each in settings)
    assert any(each.traitors and each.studies == 2 and each.lying for each in settings)
    assert any(each.unordered for each in settings)
    assert {how for each in settings for how in each.lost.values()} == set(FATES)
