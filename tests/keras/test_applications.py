"""Models of keras.applications: two rounds of a simulation are two steps of a plain loop."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import torch
from torch import Tensor

import cloister
from cloister.worker.flatten import flatten, floats_of, layout_of

MODELS: dict[str, dict[str, Any]] = {
    "MobileNet": {"alpha": 0.25},
    "MobileNetV3Small": {"minimalistic": True},
    "EfficientNetB0": {},
    "ConvNeXtTiny": {},
    "VGG16": {},
}
RATE = 1e-5
"""Gradients are in the thousands, with four images and values as they are drawn: larger steps would be chaos."""


@cloister.plan
def loss(model: Any, x: Any, y: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x, training=True))


def vector(model: Any) -> Tensor:
    floats = floats_of(model)
    return flatten(floats, layout=layout_of(floats))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_keras_applications_trains(name: str) -> None:
    keras.utils.set_random_seed(1)
    make = getattr(keras.applications, name)
    model = make(input_shape=(32, 32, 3), weights=None, classes=3, classifier_activation=None, **MODELS[name])
    for layer in model._flatten_layers():  # dropped units would be others here and there
        for rate in ("rate", "drop_path_rate"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)
    x, y = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0])
    options: dict[str, Any] = {"batch_size": 4, "rounds": 2, "on_round": lambda each: None}
    run = cloister.simulate(model, loss, owners={"a": (x, y)}, optimizer=cloister.SGD(lr=RATE), **options)
    start = vector(model)
    optimizer = torch.optim.SGD([each.value for each in model.trainable_variables], lr=RATE)
    for _ in range(2):
        optimizer.zero_grad()
        loss(model, x, y).backward()
        optimizer.step()
    expected = vector(model)
    moved = torch.dist(expected, start)
    assert moved > 0
    assert torch.dist(vector(run.model), expected) < 0.1 * moved  # roundings grow in networks that are so deep
