"""What a Keras model holds, and what its layers are called: the same however often it is built."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import keras
import pytest
import torch
from torch import nn

import cloister
from cloister.errors import ConfigurationError
from cloister.tensor.held import buffers_of, copied, parameters_of
from cloister.tensor.keras_models import variables_in
from cloister.worker.flatten import floats_of
from cloister.worker.initialising import recipe_of

layers = keras.layers


def small(*middle: Any) -> Any:
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((4,)), layers.Dense(3), *middle, layers.Dense(2)])


@cloister.plan
def loss(model: Any, x: torch.Tensor) -> torch.Tensor:
    return (model(x, training=True) ** 2).mean()


def captured(model: Any) -> cloister.Plan:
    return loss.capture(model, example=(torch.zeros(4, 4),))


def test_moving_averages_are_buffers_and_a_frozen_layer_s_weights_are_parameters() -> None:
    model = small(layers.BatchNormalization())
    model.layers[0].trainable = False
    assert list(parameters_of(model)) == [
        "dense/kernel",
        "dense/bias",
        "batch_normalization/gamma",
        "batch_normalization/beta",
        "dense_1/kernel",
        "dense_1/bias",
    ]
    assert [name for name, each in parameters_of(model).items() if not each.requires_grad] == [
        "dense/kernel",
        "dense/bias",
    ]
    assert list(buffers_of(model)) == ["batch_normalization/moving_mean", "batch_normalization/moving_variance"]


def test_a_model_built_twice_has_the_same_names_and_digest() -> None:
    assert list(floats_of(small())) == list(floats_of(small()))
    assert cloister.model_digest(small(), captured(small())) == cloister.model_digest(small(), captured(small()))


def test_names_that_the_script_gave_are_kept_and_no_two_are_the_same() -> None:
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="head"), layers.Dense(3)])
    names = list(parameters_of(small(inner, layers.Dense(3, name="head"))))
    assert names[2:8] == [
        "head/kernel",
        "head/bias",
        "dense_1/kernel",
        "dense_1/bias",
        "head_1/kernel",
        "head_1/bias",
    ]
    assert len(set(names)) == len(names)


def test_a_seed_is_no_part_of_the_model() -> None:
    model = small(layers.Dropout(0.5, seed=1), layers.GaussianNoise(0.1))
    assert [each.role for each in variables_in(model)].count("seed") == 2
    assert not buffers_of(model)
    plan, other = captured(model), small(layers.Dropout(0.5, seed=2), layers.GaussianNoise(0.1))
    assert cloister.model_digest(model, plan) == cloister.model_digest(other, plan)


def test_keras_layers_stand_among_pytorch_s() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(2, 4), nn.BatchNorm1d(4), small(layers.BatchNormalization())

    held = parameters_of(Both()), buffers_of(Both())
    assert list(held[0])[:5] == ["first.weight", "first.bias", "norm.weight", "norm.bias", "last.dense/kernel"]
    assert list(held[1]) == [
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "last.batch_normalization/moving_mean",
        "last.batch_normalization/moving_variance",
    ]


def test_weights_that_two_layers_share_are_there_once() -> None:
    shared, given = layers.Dense(4), keras.Input((4,))
    assert list(parameters_of(keras.Model(given, shared(shared(given))))) == ["dense/kernel", "dense/bias"]


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"has no weights yet: have it begin with keras\.Input"):
        cloister.model_digest(keras.Sequential([layers.Dense(3)]), captured(small()))


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer:
        """A layer of Keras on TensorFlow, which cannot be in a process with this."""

    plan = captured(small())
    there = SimpleNamespace(Layer=Layer, backend=SimpleNamespace(backend=lambda: "tensorflow"))
    monkeypatch.setitem(sys.modules, "keras", there)
    with pytest.raises(ConfigurationError, match=r"Keras runs on tensorflow here: write os\.environ"):
        cloister.model_digest(Layer(), plan)  # type: ignore[arg-type]


@pytest.mark.slow
def test_cloister_imports_no_keras_even_at_work() -> None:
    script = (
        "import sys, torch, cloister\n"
        "cloister.VirtualWorker(id='bob')\n"
        "model = torch.nn.Linear(2, 2)\n"
        "plan = cloister.plan(lambda model, x: model(x).sum()).capture(model, example=(torch.zeros(3, 2),))\n"
        "cloister.model_digest(model, plan)\n"
        "print('keras' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class Doubled(layers.Layer):  # type: ignore[misc]
    """A layer of the script's own, which Keras was told nothing of."""

    def call(self, x: Any) -> Any:
        return 2 * x


def test_a_copy_has_layers_of_the_script_s_own_and_values_of_its_own() -> None:
    model = small(Doubled(), layers.BatchNormalization())
    model.compile(optimizer="adam", loss="mse")
    other = copied(model)
    assert type(other.layers[1]) is Doubled
    for name, each in floats_of(other).items():
        assert torch.equal(each, floats_of(model)[name])
    with torch.no_grad():
        floats_of(other)["dense/kernel"].zero_()
    assert floats_of(model)["dense/kernel"].abs().sum() > 0


INITIALISERS: list[Any] = [
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "random_uniform",
    "random_normal",
    "truncated_normal",
    "zeros",
    "ones",
    keras.initializers.Constant(0.25),
    keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal"),
]


@pytest.mark.parametrize(
    "initializer", INITIALISERS, ids=lambda each: each if type(each) is str else type(each).__name__
)
def test_a_recipe_draws_as_keras_does(initializer: Any) -> None:
    """Means, spreads and bounds of 12,800 values: five standard errors at most apart."""
    keras.utils.set_random_seed(1)
    kernel = keras.Sequential([keras.Input((8, 8, 16)), layers.Conv2D(32, 5, kernel_initializer=initializer)])
    (entry,) = [each for each in recipe_of(kernel, learned={"conv2d/kernel"}) if each.tensor == "conv2d/kernel"]
    values = floats_of(kernel)["conv2d/kernel"].detach().double()
    if entry.draw == "constant":
        assert (values == entry.value).all()
        return
    assert entry.low is not None
    assert entry.high is not None
    assert values.min() >= entry.low
    assert values.max() <= entry.high
    reach = {"uniform": 0.99, "normal": 0.7}[entry.draw]
    assert values.max() - values.min() > reach * (entry.high - entry.low)
    if entry.draw == "normal":
        assert entry.std is not None
        cut = 0.8796 if entry.high < 3 * entry.std else 1.0
        assert abs(values.std().item() / (entry.std * cut) - 1) < 5 / (2 * values.numel()) ** 0.5


def test_what_a_recipe_cannot_draw_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"how a LSTMCell first fills 'lstm_cell/recurrent_kernel'"):
        recipe_of(keras.Sequential([keras.Input((3, 2)), layers.LSTM(3)]), learned={"lstm_cell/recurrent_kernel"})
