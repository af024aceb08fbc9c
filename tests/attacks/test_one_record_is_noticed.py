"""Attack: notice in noisy means whether one record, or one owner, was in them, more surely than their epsilon allows.

The attacker knows all else, and has the longest record there can be. What it finds is an epsilon that the study cannot
have less than (``tests.attacks.noticing``). Of the study as it is, that is less than what owners are told, and not much
less; with any one of the defences away it is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from cloister.aggregation import noisy_sum
from cloister.worker import record_sums
from cloister.worker.data.poisson import Draw
from tests.attacks import noticing
from tests.attacks.noticing import Noisy, least_epsilon, released

DELTA = 0.01
"""One that so few guesses can say something about."""
RECORDS = Noisy("record", multiplier=1.0, rate=0.25, rounds=4)
RARELY = Noisy("record", multiplier=1.0, rate=0.1, rounds=6)
"""Where each of the defences counts for much."""
OWNERS = Noisy("owner", multiplier=2.0, rate=1.0, rounds=4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "study",
    [RECORDS, Noisy("record", 1.0, 1.0, 1), Noisy("record", 2.0, 0.5, 8), OWNERS, Noisy("owner", 1.0, 1.0, 1)],
    ids=repr,
)
def test_nobody_notices_more_surely_than_epsilon_allows(study: Noisy) -> None:
    """And not much less surely: so what follows is not for want of trying."""
    found = released(study, runs=600)
    for delta in (0.001, DELTA, 0.1):
        assert least_epsilon(found, study=study, delta=delta) < study.epsilon(delta=delta)
    assert least_epsilon(found, study=study, delta=DELTA) > 0.5 * study.epsilon(delta=DELTA)


@pytest.mark.slow
@pytest.mark.parametrize("study", [RARELY, OWNERS], ids=repr)
def test_with_all_defences_so_few_guesses_find_nothing(study: Noisy) -> None:
    assert not is_noticed(study)


def is_noticed(study: Noisy) -> bool:
    """More surely than its epsilon allows."""
    return least_epsilon(released(study, runs=300), study=study, delta=DELTA) > study.epsilon(delta=DELTA)


Break = Callable[[pytest.MonkeyPatch], None]


def everybody_is_drawn(patch: pytest.MonkeyPatch) -> None:
    """The accountant is told of a rate."""
    everybody = Draw(np.arange(noticing.TRIED), np.ones(noticing.TRIED, np.bool_))
    patch.setattr(record_sums, "draw", lambda rows, **numbers: everybody)


def one_draw_for_all_rounds(patch: pytest.MonkeyPatch) -> None:
    key = noticing.draw_key
    patch.setattr(noticing, "draw_key", lambda salt, *, job, number: key(salt, job=job, number=1))


def no_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(record_sums, "longest", lambda length: np.inf)
    patch.setattr(record_sums, "within", lambda units: units.isfinite().all(1))


def half_of_the_noise(patch: pytest.MonkeyPatch) -> None:
    noise = noisy_sum.discrete_gaussian
    patch.setattr(noisy_sum, "discrete_gaussian", lambda sigma, **given: noise(sigma / 2, **given))


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(noisy_sum, "discrete_gaussian", lambda sigma, *, size, random: np.zeros(size, np.int64))


def one_noise_for_all_rounds(patch: pytest.MonkeyPatch) -> None:
    noise = noticing.noise_from
    patch.setattr(noticing, "noise_from", lambda seed, number: noise(seed, 1))


def one_noise_for_all_studies(patch: pytest.MonkeyPatch) -> None:
    """As a seed that is known would give it."""
    noise = noticing.noise_from
    patch.setattr(noticing, "noise_from", lambda seed, number: noise(0, number))


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        everybody_is_drawn,
        one_draw_for_all_rounds,
        no_clip,
        half_of_the_noise,
        no_noise,
        one_noise_for_all_rounds,
        one_noise_for_all_studies,
    ],
    ids=lambda broken: broken.__name__,
)
def test_with_a_defence_away_a_record_is_noticed(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    assert is_noticed(RARELY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [half_of_the_noise, no_noise, one_noise_for_all_studies],
    ids=lambda broken: broken.__name__,
)
def test_with_a_defence_away_an_owner_is_noticed(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    assert is_noticed(OWNERS)
