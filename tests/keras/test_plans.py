"""Plans of Keras models: losses, metrics and operations of Keras, layers of one's own, and what no plan can do."""

from __future__ import annotations

import copy
from typing import Any

import keras
import pytest
import torch
from torch import Tensor, nn

import cloister
from cloister.errors import ConfigurationError, PlanError
from cloister.tensor.held import buffers_of, parameters_of

layers = keras.layers
EXAMPLE = (torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))


def model(*more: Any) -> Any:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((5,)), layers.Dense(4), *more, layers.Dense(3)])


def crossentropy(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x, training=True))


def mean_squared(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return keras.losses.MeanSquaredError()(keras.ops.one_hot(y, 3), model(x, training=True))


def huber_sum(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return keras.losses.Huber(reduction="sum")(keras.ops.one_hot(y, 3), model(x, training=True))


def focal(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    loss = keras.losses.CategoricalFocalCrossentropy(from_logits=True, label_smoothing=0.1)
    return loss(keras.ops.one_hot(y, 3), model(x, training=True))


def weighted(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    weights = keras.ops.cast(y == 1, "float32") + 1.0
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x, training=True), weights)


def with_metrics(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    logits = model(x, training=True)
    right = keras.metrics.sparse_categorical_accuracy(y, logits)
    loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return {"loss": keras.ops.mean(loss), "accuracy": keras.ops.mean(right)}


@pytest.mark.parametrize("function", [crossentropy, mean_squared, huber_sum, focal, weighted, with_metrics])
def test_a_loss_of_keras_is_what_it_is_outside_of_a_plan_for_any_batch(function: Any) -> None:
    made = model()
    plan = cloister.plan(function).capture(made, example=EXAMPLE)
    generator = torch.Generator().manual_seed(4)
    for rows in (2, 9):
        x, y = torch.randn(rows, 5, generator=generator), torch.randint(0, 3, (rows,), generator=generator)
        outcome = function(made, x, y)
        expected = outcome if isinstance(outcome, dict) else {"loss": outcome}
        made.zero_grad()
        expected["loss"].backward()
        found = plan.step(parameters_of(made), buffers_of(made), (x, y))
        for name, value in {"loss": found.loss, **found.metrics}.items():
            torch.testing.assert_close(value, expected[name].detach(), rtol=1e-5, atol=1e-6)
        for name, each in parameters_of(made).items():
            torch.testing.assert_close(found.gradients[name], each.grad, rtol=1e-5, atol=1e-6)


def test_the_model_stays_as_it_is() -> None:
    made = model(layers.BatchNormalization(), layers.Dropout(0.5, seed=1))
    before, held = copy.deepcopy(made.get_weights()), [each.value for each in made.variables]
    cloister.plan(crossentropy).capture(made, example=EXAMPLE)
    assert all((now == then).all() for now, then in zip(made.get_weights(), before, strict=True))
    assert all(now.value is then for now, then in zip(made.variables, held, strict=True))
    assert {id(each) for each in made.parameters()} == {id(each) for each in held}
    assert made(torch.ones(2, 5)).shape == (2, 3)


@pytest.mark.slow
def test_two_builds_have_one_digest() -> None:
    loss = cloister.plan(crossentropy)
    made = model(layers.BatchNormalization(), layers.Dropout(0.5))
    again = model(layers.BatchNormalization(), layers.Dropout(0.5))
    assert loss.capture(made, example=EXAMPLE).digest == loss.capture(again, example=EXAMPLE).digest


def test_moving_averages_follow_the_step_and_only_in_training() -> None:
    made, generator = model(layers.BatchNormalization()), torch.Generator().manual_seed(4)
    batch = torch.randn(8, 5, generator=generator), torch.zeros(8, dtype=torch.int64)
    plan = cloister.plan(crossentropy).capture(made, example=EXAMPLE)
    found = plan.step(parameters_of(made), buffers_of(made), batch).buffers
    crossentropy(made, *batch)
    assert set(found) == set(buffers_of(made))
    for name, each in buffers_of(made).items():
        torch.testing.assert_close(found[name], each.detach(), rtol=1e-5, atol=1e-6)

    def at_rest(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        return model(x).sum()

    assert set(cloister.plan(at_rest).capture(made, example=EXAMPLE).program.updates) == {None}


class Counted(layers.Layer):  # type: ignore[misc]
    """A layer of the script's own with a state: a moving average of its inputs."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="mean")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(0.5 * self.mean + 0.5 * keras.ops.mean(x, axis=0))
        return x - self.mean


def test_the_state_of_a_layer_of_one_s_own_is_averaged_over_owners() -> None:
    owners = {name: (torch.full((4, 5), value), EXAMPLE[1]) for name, value in {"a": 1.0, "b": 3.0}.items()}
    made = keras.Sequential([keras.Input((5,)), Counted(), layers.Dense(3)])
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.1), "batch_size": 4, "on_round": lambda each: None}
    run = cloister.simulate(made, cloister.plan(crossentropy), owners=owners, rounds=2, **options)
    # From 0: (0.5 + 1.5) / 2 = 1, then (0.5 + 0.5 + 0.5 + 1.5) / 2 = 1.5.
    torch.testing.assert_close(buffers_of(run.model)["counted/mean"].detach(), torch.full((5,), 1.5))


def test_penalties_of_layers_are_part_of_a_loss() -> None:
    made = model(layers.Dense(4, kernel_regularizer="l2"))

    def penalised(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        return crossentropy(model, x, y) + sum(model.losses)  # type: ignore[arg-type]

    x, y = torch.ones(3, 5), torch.zeros(3, dtype=torch.int64)
    plan = cloister.plan(penalised).capture(made, example=EXAMPLE)
    found = plan.step(parameters_of(made), buffers_of(made), (x, y)).loss
    torch.testing.assert_close(found, penalised(made, x, y).detach(), rtol=1e-5, atol=1e-6)
    assert found > crossentropy(made, x, y)


def test_keras_and_pytorch_stand_in_one_model() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.norm, self.last = nn.Linear(5, 5), nn.BatchNorm1d(5), model(layers.BatchNormalization())

        def forward(self, x: Tensor, training: bool = False) -> Any:
            return self.last(self.norm(self.first(x)), training=training)

    made, x = Both(), torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    batch = x, torch.zeros(6, dtype=torch.int64)
    plan = cloister.plan(crossentropy).capture(made, example=EXAMPLE)
    found = plan.step(parameters_of(made), buffers_of(made), batch)
    crossentropy(made, *batch).backward()
    for name, each in parameters_of(made).items():
        torch.testing.assert_close(found.gradients[name], each.grad, rtol=1e-4, atol=1e-6)
    for name, each in buffers_of(made).items():
        torch.testing.assert_close(found.buffers[name], each.detach(), rtol=1e-5, atol=1e-6)


def test_a_pytorch_module_stands_in_a_keras_model() -> None:
    wrapped = keras.layers.TorchModuleWrapper(nn.Linear(4, 4), output_shape=(None, 4))
    made = model(wrapped)
    plan = cloister.plan(crossentropy).capture(made, example=EXAMPLE)
    assert sum(each is not None for each in plan.program.gradients) == 6


class Meddling(layers.Layer):  # type: ignore[misc]
    """A layer that writes to a weight that is trained."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        self.scale.assign(self.scale * 0.5)
        return x * self.scale


def test_what_no_plan_can_do_is_refused() -> None:
    loss = cloister.plan(crossentropy)
    with pytest.raises(PlanError, match="writes to the parameter meddling/scale; only optimizers do"):
        loss.capture(model(Meddling()), example=EXAMPLE)
    with pytest.raises(PlanError, match="reads a value of the batch or the model"):
        loss.capture(model(layers.SpectralNormalization(layers.Dense(4))), example=EXAMPLE)
    with pytest.raises(ConfigurationError, match="has no weights yet"):
        loss.capture(keras.Sequential([layers.Dense(3)]), example=EXAMPLE)


def test_an_optimizer_of_keras_is_answered_with_the_declared_one() -> None:
    with pytest.raises(ConfigurationError, match=r"write cloister\.Adam\(lr=\.\.\.\)"):
        cloister.simulate(
            model(),
            cloister.plan(crossentropy),
            owners={"a": EXAMPLE},
            optimizer=keras.optimizers.Adam(),
            batch_size=2,
            rounds=1,
        )
