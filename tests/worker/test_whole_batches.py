"""Steps of whole batches: all of them are of equally many rows, and which rows those are a secret decides, once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import cloister
from cloister.errors import ConfigurationError, DataSetError
from cloister.worker.data.batches import whole_batches
from cloister.worker.data.rows import Arrays
from cloister.worker.data.salts import SALT_BYTES, Seeds, seeds_of, simulated_salt
from cloister.worker.fitting import check_whole
from cloister.worker.training import Trained, train


@cloister.plan
def loss(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Its gradient is the mean of a step's rows, and its metrics tell how many they were."""
    return {"loss": (model.weight * x).sum() / x.shape[0], "ones": x[:, 0].sum()}  # type: ignore[operator]


def trained(rows: int, **numbers: Any) -> Trained:
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    x = torch.ones(rows, 3)
    x[:, 1] = torch.arange(rows)
    return train(
        loss.capture(model, example=(torch.zeros(4, 3),)),
        Arrays({"x": x}),
        parameters=dict(model.named_parameters()),
        buffers={},
        optimizer=cloister.SGD(lr=1.0),
        **{"batch_size": 4, "seed": 1, **numbers},
    )


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_the_rows_are_some_of_all_ascending_each_once_and_fill_batches(rows: int, batch_size: int, seed: int) -> None:
    found = whole_batches(rows, batch_size=batch_size, seed=seed)
    assert len(found) == rows - rows % batch_size
    assert sorted(set(found.tolist())) == found.tolist()
    assert all(0 <= row < rows for row in found)
    assert np.array_equal(found, whole_batches(rows, batch_size=batch_size, seed=seed))


def test_which_rows_are_left_out_depends_on_the_seed() -> None:
    assert len({tuple(whole_batches(9, batch_size=4, seed=seed)) for seed in range(100)}) == 9


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_every_step_is_of_a_whole_batch(steps: int) -> None:
    """Of 11 rows 8 are taken, in steps of 4."""
    found = trained(11, steps=steps, rows_seed=3)
    assert len(found.losses) == steps
    assert found.metrics["ones"] == 4
    assert found.examples == 11
    assert found.delta[0] == -steps  # the mean of as many ones, step after step


def test_an_epoch_of_steps_takes_each_of_the_chosen_rows_once() -> None:
    chosen = whole_batches(11, batch_size=4, seed=3)
    for seed in (1, 2):
        assert trained(11, steps=2, rows_seed=3, seed=seed).delta[1] == pytest.approx(-chosen.sum() / 4)


@pytest.mark.slow
def test_the_order_depends_on_the_seed_and_the_choice_on_the_other() -> None:
    first = trained(11, steps=1, rows_seed=3)
    assert torch.equal(trained(11, steps=1, rows_seed=3).delta, first.delta)
    assert not torch.equal(trained(11, steps=1, rows_seed=3, seed=2).delta, first.delta)
    sums = {float(trained(11, steps=2, rows_seed=seed).delta[1]) for seed in range(20)}
    assert len(sums) > 5


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_data_set_without_two_whole_batches_is_not_trained_on(rows: int) -> None:
    with pytest.raises(DataSetError, match="fewer rows than 2 batches of 4"):
        check_whole(rows, batch_size=4)
    with pytest.raises(DataSetError, match="fewer rows than 2 batches of 4"):
        trained(rows, steps=1)
    check_whole(8, batch_size=4)


def test_a_training_is_of_steps_or_of_epochs() -> None:
    for numbers in ({}, {"steps": 1, "local_epochs": 1}, {"steps": 0}):
        with pytest.raises(ConfigurationError, match="steps"):
            trained(8, **numbers)


SALT, JOB = bytes(range(SALT_BYTES)), b"j" * 32


def test_seeds_are_a_function_of_secret_job_and_number() -> None:
    first = seeds_of(SALT, job=JOB, number=1)
    assert first == Seeds(*first) == seeds_of(SALT, job=JOB, number=1)
    others = [seeds_of(SALT, job=b"k" * 32, number=1), seeds_of(SALT, job=JOB, number=2)]
    assert all(each.rows == first.rows and each.steps != first.steps for each in others)
    elsewhere = seeds_of(SALT[::-1], job=JOB, number=1)
    assert elsewhere.rows != first.rows
    assert elsewhere.steps != first.steps
    assert simulated_salt(7, "alice") not in (simulated_salt(7, "bob"), simulated_salt(8, "alice"))
