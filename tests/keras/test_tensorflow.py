"""A model from TensorFlow trains here and goes back: it predicts the same on both sides.

``make test-keras`` makes the venv that this needs.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import cloister
from tests.keras import under_tensorflow as there

PYTHON = Path(__file__).parents[2] / "build" / "keras" / "bin" / "python"
APART = 1e-5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not PYTHON.exists(), reason="there is no TensorFlow: `make test-keras` installs it"),
]


def run(what: str, folder: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([str(PYTHON), there.__file__, what, str(folder)], check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tensorflow")
    run("make", made)
    return made


def predictions(model: Any) -> Any:
    return model(torch.tensor(there.data()[0])).detach().numpy()


@cloister.plan
def loss(model: Any, x: Any, y: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x, training=True))


def test_a_model_goes_there_and_back(folder: Path) -> None:
    came = np.load(folder / "there.npy")
    model = keras.models.load_model(folder / "there.keras", compile=False)
    assert abs(predictions(model) - came).max() < APART
    filled = there.model()
    filled.load_weights(folder / "there.weights.h5")
    assert abs(predictions(filled) - came).max() < APART

    x, y = map(torch.tensor, there.data())
    owners = {name: (x[at::3][:8], y[at::3][:8]) for at, name in enumerate(("alice", "bob", "carol"))}
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.1), "batch_size": 8, "on_round": lambda each: None}
    trained = cloister.simulate(model, loss, owners=owners, rounds=2, **options).model
    here = predictions(trained)
    assert abs(here - came).max() > 100 * APART  # it has learned
    trained.save(folder / "here.keras")
    trained.save_weights(folder / "here.weights.h5")
    run("load", folder)
    for name in ("whole", "weights"):
        assert abs(np.load(folder / f"{name}.npy") - here).max() < APART
