"""The demonstration's script: the study that the hospitals agree on, what it is compared with, and a theft."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

import cloister
from cloister.accounting.accountant import Spent, epsilon
from cloister.demo import hospitals, training
from cloister.demo.hospitals import Patients
from cloister.errors import JobError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_three_hospitals_learn_what_each_alone_does_not() -> None:
    """As a simulation, to which a study of the same is equal but for the noise, which is as much."""
    parts, held_out = hospitals.split(hospitals.load())
    plan = training.captured(training.diagnose)
    owners: dict[str, Any] = {name: (part.x, part.y) for name, part in parts.items()}
    noise, sampling = training.noise_of(parts, rounds=40), training.sampling_of(parts)
    spent = epsilon([Spent(noise.multiplier, sampling.rate, 40)], delta=noise.delta)
    assert 1.9 < spent <= training.EPSILON
    accuracies = []
    for seed in range(8):
        run = cloister.simulate(
            training.new_model(),
            plan,
            owners=owners,
            rounds=40,
            noise=noise,
            sampling=sampling,
            clip=training.CLIP,
            seed=seed,
            on_round=lambda done: None,
            **training.STUDIED,
        )
        accuracies.append(training.accuracy(run.model, held_out))
    federated = mean(accuracies)
    without_noise = training.accuracy(training.train_without_noise(parts, plan), held_out)
    alone = {name: training.accuracy(training.train_at_one_place(part, plan), held_out) for name, part in parts.items()}
    assert federated > without_noise - 0.025, "what the noise costs: 2.5 points at most"
    assert without_noise > 0.97
    assert min(alone.values()) < 0.85


@pytest.mark.slow
def test_what_the_thief_proposes_would_have_shown_a_patients_row() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(1, 30, generator=generator), torch.ones(1, 1)
    before = training.new_model()
    after = cloister.simulate(
        before,
        training.captured(training.copy_row),
        owners={"north": (x, y)},
        optimizer=cloister.SGD(lr=1.0),
        batch_size=1,
        rounds=1,
        on_round=lambda done: None,
    ).model
    changed = before.get_parameter("0.weight") - after.get_parameter("0.weight")
    assert torch.allclose(changed[0], x[0], atol=1e-5)
    assert not changed[1:].any()


@pytest.mark.slow
def test_the_charter_allows_the_agreed_step_and_no_other(tmp_path: Path) -> None:
    parts, _ = hospitals.split(hospitals.load())
    agreed, other = training.captured(training.diagnose), training.captured(training.copy_row)
    charter = training.gather(tmp_path, parts, agreed, rounds=4).charter
    assert charter.name == "hospitals"
    assert {owner.name for owner in charter.owners} == set(parts)
    assert not charter.interactive
    assert training.job(agreed, rounds=4, charter=charter)
    with pytest.raises(JobError, match=other.digest.hex()):
        training.job(other, rounds=4, charter=charter)
    with pytest.raises(JobError, match=r"rounds \(5; the charter has 4\)"):
        training.job(agreed, rounds=5, charter=charter)


def test_the_first_model_is_the_same_each_time_and_takes_nothing_from_the_callers_generator() -> None:
    before = torch.get_rng_state()
    first, again = training.new_model(), training.new_model()
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert torch.equal(torch.get_rng_state(), before)


def test_accuracy_is_the_share_that_is_judged_right() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    x = torch.tensor([[-1.0], [1.0], [2.0], [3.0]])
    assert training.accuracy(model, Patients(x, torch.tensor([[0.0], [1.0], [1.0], [0.0]]))) == 0.75
