"""Keras at a worker: what is computed there, what comes home, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
import torch

import cloister
from cloister.errors import CloisterError, ImplicitDownloadError, NotColocatedError
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.session import Location

layers = keras.layers
ROWS = 12


@pytest.fixture(scope="module")
def bob() -> cloister.VirtualWorker:
    return cloister.VirtualWorker(id="bob")


@pytest.fixture
def came_home(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all values that are fetched from workers."""
    shapes: list[tuple[int, ...]] = []
    plain = Location.fetch

    def fetch(location: Location, objects: Any, geometries: Any) -> Any:
        shapes.extend(geometry.shape for geometry in geometries)
        return plain(location, objects, geometries)

    monkeypatch.setattr(Location, "fetch", fetch)
    return shapes


def model(*more: Any) -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5), layers.BatchNormalization(), layers.ReLU(), *more, layers.Dense(3)]
    )


def compiled() -> Any:
    made = model(layers.Dropout(0.5, seed=3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return made


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 4, generator=generator), torch.randint(0, 3, (ROWS,), generator=generator)


def steps(made: Any, optimizer: Any, x: Any, y: Any, count: int) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(count):
        made.zero_grad()
        loss(y, made(x, training=True)).backward()
        optimizer.apply([each.value.grad for each in made.trainable_variables], made.trainable_variables)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.5),
    "Adam": lambda: keras.optimizers.Adam(0.1, use_ema=True, gradient_accumulation_steps=2),
    "AdamW": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "Nadam": lambda: keras.optimizers.Nadam(0.1),
    "Lion": lambda: keras.optimizers.Lion(0.01),
    "Muon": lambda: keras.optimizers.Muon(0.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_keras_does_there_what_it_does_here_and_what_it_keeps_comes_home(
    name: str, bob: cloister.VirtualWorker
) -> None:
    (x, y), found = data(), []
    for there in (False, True):
        made, optimizer = model(), OPTIMIZERS[name]()
        if there:
            steps(made.send(bob), optimizer, x.send(bob), y.send(bob), 3)
            assert any(isinstance(each.value, PointerTensor) for each in optimizer.variables)
            made.get()
        else:
            steps(made, optimizer, x, y, 3)
        steps(made, optimizer, x, y, 2)
        found.append(made.get_weights())
    for here, from_there in zip(*found, strict=True):
        torch.testing.assert_close(torch.tensor(from_there), torch.tensor(here), rtol=1e-4, atol=1e-5)


def test_an_optimizer_follows_a_model_to_another_worker(bob: cloister.VirtualWorker) -> None:
    alice, (x, y) = cloister.VirtualWorker(id="alice"), data()
    made, optimizer = model(), keras.optimizers.Adam(0.1)
    steps(made.send(bob), optimizer, x.send(bob), y.send(bob), 1)
    steps(made.move(alice), optimizer, x.send(alice), y.send(alice), 1)
    places = {each.value.location.id for each in optimizer.variables if isinstance(each.value, PointerTensor)}
    assert places == {"alice"}


@pytest.mark.slow
def test_fitting_brings_home_numbers_alone(bob: cloister.VirtualWorker, came_home: list[tuple[int, ...]]) -> None:
    x, y = (each.send(bob) for each in data())
    made = compiled().send(bob)
    history = made.fit(x, y, batch_size=5, epochs=3, validation_data=(x, y), verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert set(made.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "accuracy"}
    assert made.train_on_batch(x, y)[0] > 0
    assert set(came_home) == {()}


@pytest.mark.slow
def test_fitting_there_is_fitting_here(bob: cloister.VirtualWorker) -> None:
    (x, y), found = data(), []
    for there in (False, True):
        made = model()
        made.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        if there:
            made.send(bob).fit(x.send(bob), y.send(bob), batch_size=5, epochs=2, shuffle=False, verbose=0)
            made.get()
        else:
            made.fit(x, y, batch_size=5, epochs=2, shuffle=False, verbose=0)
        found.append(made.get_weights())
    for here, from_there in zip(*found, strict=True):
        torch.testing.assert_close(torch.tensor(from_there), torch.tensor(here), rtol=1e-4, atol=1e-5)


def test_calls_losses_and_operations_bring_nothing_home(
    bob: cloister.VirtualWorker, came_home: list[tuple[int, ...]]
) -> None:
    x, y = (each.send(bob) for each in data())
    logits = compiled().send(bob)(x, training=True)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)(keras.ops.one_hot(y, 3), logits)
    right = keras.ops.mean(keras.metrics.sparse_categorical_accuracy(y, logits))
    assert all(isinstance(each, PointerTensor) for each in (logits, loss, right, keras.ops.softmax(logits)))
    assert not came_home


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "predict": lambda made, x: made.predict(x, verbose=0),
    "save": lambda made, x: made.save("there.keras"),
    "get_weights": lambda made, x: made.get_weights(),
    "copy": lambda made, x: made.copy(),
    "convert_to_numpy": lambda made, x: keras.ops.convert_to_numpy(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_bring_data_home_for_numpy_is_refused(
    name: str, bob: cloister.VirtualWorker, came_home: list[tuple[int, ...]], tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImplicitDownloadError, match=r"^Keras would bring values home from bob for NumPy: write get"):
        REFUSED[name](compiled().send(bob), data()[0].send(bob))
    assert not came_home


def test_a_refusal_is_the_sentence_alone(bob: cloister.VirtualWorker) -> None:
    """Keras would write a call's arguments around it."""
    with pytest.raises(NotColocatedError) as caught:
        compiled().send(bob)(data()[0])
    assert str(caught.value).startswith("aten::mm met a tensor at bob and a local tensor float32[12, 4]")
    assert isinstance(caught.value, CloisterError)


def test_a_seeded_layer_draws_there_what_the_caller_s_seed_says(bob: cloister.VirtualWorker) -> None:
    x = torch.ones(64, 4).send(bob)
    made = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5, seed=1), layers.GaussianNoise(1.0, seed=1)])
    made.send(bob)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(made(x, training=True).get())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert 0.3 < float((drawn[0] > 1).float().mean()) < 0.6  # half are 2, plus noise
