"""A study of a Keras model: an aggregator and three owners' nodes as processes, and what a simulation comes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import pytest
import torch
from torch import Tensor

import cloister
from cloister.study.job import describe
from cloister.testing.studies import LocalColumns, LocalStudy
from cloister.worker.flatten import floats_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # as Keras writes a file
]

SEED, ROWS = 5, 32
layers = keras.layers


@cloister.plan
def loss(model: Any, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Keras' cross-entropy, and the share of right answers."""
    logits = model(x, training=True)
    right = keras.metrics.sparse_categorical_accuracy(y, logits)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"loss": crossentropy(y, logits), "accuracy": keras.ops.mean(right)}


def model() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dropout(0.1, seed=4),
            layers.Dense(2),
        ]
    )


def data() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = {name: torch.randn(ROWS, 6, 6, 1, generator=generator) for name in ("alice", "bob", "carol")}
    return {name: (x, (x[:, :3].sum((1, 2, 3)) > 0).long()) for name, x in images.items()}


NUMBERS: dict[str, Any] = {"data": "#images", "optimizer": cloister.SGD(lr=0.2), "batch_size": 16, "steps": 4}
EXAMPLE = (torch.zeros(4, 6, 6, 1), torch.zeros(4, dtype=torch.int64))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStudy]:
    owners = {}
    for name, (x, y) in data().items():
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy())
        owners[name] = [LocalColumns(tmp_path / f"{name}.npz", ("x", "y"), ("#images",))]
    plan = loss.capture(model(), example=EXAMPLE)
    limits = {
        "first_model": cloister.model_digest(model(), plan),
        "floor": 2,
        "clip": 10.0,
        "clip_buffers": 10.0,
        "rounds": 10,
        "min_examples": ROWS,
        "metrics": {"loss": (0.0, 100.0), "accuracy": (0.0, 1.0)},
    }
    jobs = [cloister.job("train", plan, rounds=4, **NUMBERS)]
    with LocalStudy(tmp_path, owners, jobs=jobs, limits=limits, rehearsal=SEED) as running:
        running.start_aggregator()
        running.start()
        running.gather()
        yield running


def test_a_keras_model_learns_in_a_study_what_it_learns_in_a_simulation(local: LocalStudy, tmp_path: Path) -> None:
    with local.study() as study:
        run = study.fit(model(), loss, example=EXAMPLE, rounds=4, on_round=lambda done: None, **NUMBERS)
    assert type(run.model) is keras.Sequential
    losses = [each.metrics["loss"] for each in run.history]
    assert losses[-1] < losses[0]
    given = {
        **NUMBERS,
        "floor": 2,
        "clip": 10.0,
        "clip_buffers": 10.0,
        "rounds": 4,
        "seed": SEED,
        "on_round": lambda done: None,
    }
    del given["data"]
    whole = cloister.simulate(model(), loss, owners=data(), job=run.receipts[0].cohort.job, **given).model
    for name, each in floats_of(run.model).items():
        torch.testing.assert_close(each, floats_of(whole)[name], rtol=1e-4, atol=1e-5)
    mean = floats_of(run.model)["batch_normalization/moving_mean"]
    assert mean.abs().max() > 0
    run.model.save(tmp_path / "trained.keras")
    again = keras.models.load_model(tmp_path / "trained.keras")
    assert describe(again, run.plan).digest == describe(run.model, run.plan).digest
