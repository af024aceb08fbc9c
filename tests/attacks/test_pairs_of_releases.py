"""Attack: two releases, each of them harmless, whose difference is one owner's update or one row.

Two means are subtracted where they are nearly the same sum: of the same rows, on nearly the same model. So all jobs on
one data set have one batch size, one way to count owners and one ``clip_norm``, and at every rate the model moves. What
is left is an owner that is away from one of two rounds, which noise will answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cloister.charter import job_bounds
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.wire.optimizers import SGD
from cloister.wire.strategies import FedAdam, FedAvg, Strategy
from tests.attacks import sweep
from tests.attacks.sweep import LIKE, READ, Setting
from tests.support.chains import PLAN
from tests.support.charters import agreed_job, text

MODEL = f'first_model = "{"cd" * 32}"\n'
NARROW = "MLP, 16 wide"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def refused(first: dict[str, Any], second: dict[str, Any]) -> str:
    """What a charter with both jobs is refused for."""
    jobs = [agreed_job(PLAN, **first), agreed_job(PLAN, **{"name": "z", **second})]
    with pytest.raises(CharterError) as caught:
        parse_charter(text(jobs=jobs, limits=MODEL, row_buckets="[20, 100, 300]"))
    return str(caught.value)


def pair(setting: Setting, first: dict[str, Any], second: dict[str, Any], **shared: Any) -> list[sweep.Release]:
    """The releases of two jobs, one after the other, that no charter has together."""
    one = sweep.release(setting, agreed_job(setting.plan.digest, **shared, **first))
    return [one, sweep.release(setting, agreed_job(setting.plan.digest, **shared, **second), number=2, last=one)]


# One job by owners, one by rows


def test_no_charter_counts_owners_in_two_ways() -> None:
    found = refused({}, {"weights": "rows"})
    assert "jobs[1].weights: is rows, and uniform in another job on the same data" in found


@pytest.mark.slow
def test_with_two_ways_to_count_the_difference_is_the_update_of_whoever_has_most_rows() -> None:
    """Alice counts for a third in one mean and for half in the other: 4 of the other less 3 of the one is hers."""
    shared = {"batch_size": 64, "steps": 4, "optimizer": SGD(0.1)}
    one, two = pair(sweep.with_one_larger(), {}, {"weights": "rows"}, **shared)
    found = one.parameters(4 * two.mean - 3 * one.mean)
    told = abs(sweep.cosine(found, one.parameters(one.updates["alice"])))
    assert told > 0.95
    assert sweep.owner_cosine([one], name="alice") < 0.75


# One job with gradients of one length, one without


def test_no_charter_clips_gradients_in_two_ways() -> None:
    assert "clip_norm differs from that of another job on the same data" in refused(
        {}, {"optimizer": SGD(0.1, clip_norm=1e-3)}
    )


@pytest.mark.slow
def test_with_two_lengths_of_gradients_the_difference_is_the_update_of_whoever_fits_best() -> None:
    """Three owners of four are scaled to one length in one mean, and all four in the other: what is over is dave's."""
    shared = {"batch_size": 64, "steps": 8}
    both = pair(sweep.with_one_fitted(), {"optimizer": SGD(0.1)}, {"optimizer": SGD(0.1, clip_norm=1e-3)}, **shared)
    assert sweep.owner_cosine(both[:1], name="dave") < 0.2
    assert sweep.owner_cosine(both, name="dave") > 0.75


# Two batch sizes


@pytest.mark.parametrize("batch_size", [33, 64])
def test_no_charter_has_two_batch_sizes_for_one_data_set(batch_size: int) -> None:
    assert f"jobs[1].batch_size: is {batch_size}, and 32 in another job" in refused({}, {"batch_size": batch_size})


# The same job twice


def test_no_charter_has_a_rate_at_which_a_model_hardly_moves() -> None:
    for slow in (SGD(1e-3), SGD(1e-4, momentum=0.9)):
        assert any("must be from 0.01" in fault for _, fault in job_bounds.faults(agreed_job(PLAN, optimizer=slow)))


@pytest.mark.slow
def test_at_a_low_rate_two_rounds_differ_by_the_row_for_which_a_unit_changed_its_mind() -> None:
    """Each owner's rows are the same in both rounds, all of them once, and so their gradients cancel; but for a row
    that was just below a unit's threshold in one round, and is just above it in the other."""

    def error(lr: float) -> float:
        errors = []
        for seed in range(8):
            here = sweep.setting(sweep.first(NARROW, seed=seed), sweep.dealt(3))
            wanted = agreed_job(here.plan.digest, batch_size=32, steps=4, optimizer=SGD(lr))
            one = sweep.release(here, wanted, seed=seed)
            errors.append(sweep.row_error([one, sweep.release(here, wanted, number=2, seed=seed, last=one)]))
        return min(errors)

    assert error(1e-3) < READ
    assert error(1e-2) > 2 * READ


# An owner that is away from one of two rounds


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_two_rounds_still_tell_the_update_of_whoever_was_away_from_one(count: int, lr: float) -> None:
    """Trained, the model hardly moves whatever the numbers are."""
    told = sweep.absence(sweep.setting(sweep.trained(NARROW), sweep.dealt(count)), lr=lr)
    assert told > LIKE


@pytest.mark.slow
def test_from_a_first_model_it_is_told_less_well_the_farther_a_round_leads() -> None:
    here = sweep.setting(sweep.first(NARROW), sweep.dealt(4))
    near, far, farther = (sweep.absence(here, lr=lr) for lr in (0.01, 0.1, 1.0))
    assert 1 >= near > far > LIKE
    assert farther < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [FedAvg(0.01), FedAdam(1e-4), FedAdam(1e-3, beta1=0.99, tau=1.0)], ids=repr)
def test_no_charter_has_a_strategy_that_would_bring_it_back(strategy: Strategy) -> None:
    """With each of these, an adaptive one too, a round leads nowhere, and the next is on almost the same model."""
    here = sweep.setting(sweep.first(NARROW), sweep.dealt(4))
    wanted = {"batch_size": 64, "steps": 2, "optimizer": SGD(1.0), "strategy": strategy}
    assert [*job_bounds.faults(agreed_job(PLAN, **wanted))]
    one = sweep.release(here, agreed_job(here.plan.digest, **wanted))
    three = ("alice", "bob", "carol")
    two = sweep.release(here, agreed_job(here.plan.digest, **wanted), number=2, last=one, names=three)
    found = one.parameters(4 * one.mean - 3 * two.mean)
    assert sweep.cosine(found, one.parameters(one.updates["dave"])) > LIKE
