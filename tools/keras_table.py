"""What works of Keras' layers, as a table for docs/keras.md: ``python -m tools.keras_table`` prints it.

Each layer stands in a small model, which is trained at a worker (pointers), captured (plan), and trained in a
simulation of four owners. tests/keras holds the page to this, and the results to a plain loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

import cloister

ROWS = 6
CLASSES = 3
OWNERS = 4
RATE = 0.1
LAYERS = keras.layers
REASONS = {
    "draws random numbers": "random numbers, of another seed for each owner",
    "follows indices": "indices are converted on the way",
    "aten::clone": "images are copied channels last, which `vmap` does not",
    "aten::add_.Tensor": "`vmap` does not add up penalties in place",
    "held by an autograd graph": "it keeps views of its weights",
    "unbind": "it goes through the rows one by one",
    "stack": "it goes through the rows one by one",
    "rnn.py": "a loop asks a tensor whether it is at its end: `unroll=True`",
    "reads a value": "it asks whether its weights are 0",
}
"""In words, by what an error says."""
HEAD = "| Layer | Pointers | Plan | Simulation | Why not |\n|:--|:--|:--|:--|:--|"


class Case(NamedTuple):
    """A layer in a model. ``shape``: of one row. ``whole``: the largest of whole numbers, where rows are of them.
    ``draws``: whether it has random numbers in training, so that no two ways give the same."""

    shape: tuple[int, ...]
    layer: Callable[[Any], Any]
    whole: int | None = None
    draws: bool = False


IMAGE, SERIES, VECTOR = (6, 6, 3), (5, 4), (8,)


def _normalised(x: Any) -> Any:
    layer = LAYERS.Normalization()
    layer.adapt(torch.arange(24.0).reshape(3, 8).numpy())
    return layer(x)


CASES: dict[str, Case] = {
    "Dense": Case(VECTOR, LAYERS.Dense(4, activation="gelu")),
    "EinsumDense": Case(SERIES, LAYERS.EinsumDense("abc,cd->abd", output_shape=(5, 3), bias_axes="d")),
    "Embedding": Case((5,), LAYERS.Embedding(9, 4), whole=9),
    "Conv1D": Case(SERIES, LAYERS.Conv1D(3, 2, padding="causal")),
    "Conv2D": Case(IMAGE, LAYERS.Conv2D(4, 3, strides=2, padding="same")),
    "Conv3D": Case((4, 4, 4, 2), LAYERS.Conv3D(3, 2)),
    "Conv2DTranspose": Case(IMAGE, LAYERS.Conv2DTranspose(3, 2, strides=2)),
    "DepthwiseConv2D": Case(IMAGE, LAYERS.DepthwiseConv2D(3)),
    "SeparableConv2D": Case(IMAGE, LAYERS.SeparableConv2D(4, 3)),
    "MaxPooling2D": Case(IMAGE, LAYERS.MaxPooling2D(2)),
    "AveragePooling2D": Case(IMAGE, LAYERS.AveragePooling2D(2)),
    "GlobalAveragePooling2D": Case(IMAGE, LAYERS.GlobalAveragePooling2D()),
    "GlobalMaxPooling1D": Case(SERIES, LAYERS.GlobalMaxPooling1D()),
    "BatchNormalization": Case(IMAGE, LAYERS.BatchNormalization(momentum=0.8)),
    "LayerNormalization": Case(VECTOR, LAYERS.LayerNormalization()),
    "GroupNormalization": Case(SERIES, LAYERS.GroupNormalization(groups=2)),
    "RMSNormalization": Case(VECTOR, LAYERS.RMSNormalization()),
    "UnitNormalization": Case(VECTOR, LAYERS.UnitNormalization()),
    "Normalization": Case(VECTOR, _normalised),
    "SpectralNormalization": Case(VECTOR, LAYERS.SpectralNormalization(LAYERS.Dense(4))),
    "Rescaling": Case(IMAGE, LAYERS.Rescaling(1 / 255)),
    "ReLU": Case(VECTOR, LAYERS.ReLU()),
    "LeakyReLU": Case(VECTOR, LAYERS.LeakyReLU()),
    "PReLU": Case(VECTOR, LAYERS.PReLU()),
    "ELU": Case(VECTOR, LAYERS.ELU()),
    "Softmax": Case(VECTOR, LAYERS.Softmax()),
    "Dropout": Case(VECTOR, LAYERS.Dropout(0.3), draws=True),
    "SpatialDropout2D": Case(IMAGE, LAYERS.SpatialDropout2D(0.3), draws=True),
    "GaussianNoise": Case(VECTOR, LAYERS.GaussianNoise(0.3, seed=1), draws=True),
    "GaussianDropout": Case(VECTOR, LAYERS.GaussianDropout(0.3), draws=True),
    "AlphaDropout": Case(VECTOR, LAYERS.AlphaDropout(0.3), draws=True),
    "RandomFlip": Case(IMAGE, LAYERS.RandomFlip(), draws=True),
    "RandomRotation": Case(IMAGE, LAYERS.RandomRotation(0.1), draws=True),
    "RandomBrightness": Case(IMAGE, LAYERS.RandomBrightness(0.1), draws=True),
    "SimpleRNN": Case(SERIES, LAYERS.SimpleRNN(4)),
    "SimpleRNN, unroll=True": Case(SERIES, LAYERS.SimpleRNN(4, unroll=True)),
    "RNN, unroll=True": Case(SERIES, LAYERS.RNN([LAYERS.LSTMCell(3), LAYERS.GRUCell(3)], unroll=True)),
    "LSTM": Case(SERIES, LAYERS.LSTM(4)),
    "GRU": Case(SERIES, LAYERS.GRU(4, return_sequences=True)),
    "Bidirectional": Case(SERIES, LAYERS.Bidirectional(LAYERS.LSTM(3))),
    "ConvLSTM1D": Case((3, 5, 2), LAYERS.ConvLSTM1D(2, 2)),
    "TimeDistributed": Case(SERIES, LAYERS.TimeDistributed(LAYERS.Dense(3))),
    "Masking": Case(SERIES, lambda x: LAYERS.LSTM(3)(LAYERS.Masking()(x))),
    "Masking, unroll=True": Case(SERIES, lambda x: LAYERS.LSTM(3, unroll=True)(LAYERS.Masking()(x))),
    "Attention": Case(SERIES, lambda x: LAYERS.Attention(use_scale=True)([x, x])),
    "AdditiveAttention": Case(SERIES, lambda x: LAYERS.AdditiveAttention()([x, x])),
    "MultiHeadAttention": Case(SERIES, lambda x: LAYERS.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)),
    "GroupQueryAttention": Case(SERIES, lambda x: LAYERS.GroupQueryAttention(3, 4, 2)(x, x)),
    "Flatten": Case(IMAGE, LAYERS.Flatten()),
    "Reshape": Case(SERIES, LAYERS.Reshape((10, 2))),
    "Permute": Case(SERIES, LAYERS.Permute((2, 1))),
    "RepeatVector": Case(VECTOR, LAYERS.RepeatVector(2)),
    "ZeroPadding2D": Case(IMAGE, LAYERS.ZeroPadding2D(1)),
    "Cropping2D": Case(IMAGE, LAYERS.Cropping2D(1)),
    "UpSampling2D": Case(IMAGE, LAYERS.UpSampling2D(2, interpolation="bilinear")),
    "Resizing": Case(IMAGE, LAYERS.Resizing(4, 4)),
    "Add": Case(VECTOR, lambda x: LAYERS.Add()([x, LAYERS.Dense(8)(x)])),
    "Concatenate": Case(VECTOR, lambda x: LAYERS.Concatenate()([x, LAYERS.Dense(2)(x)])),
    "Dot": Case(SERIES, lambda x: LAYERS.Dot(axes=2)([x, x])),
    "CategoryEncoding": Case((5,), LAYERS.CategoryEncoding(9, output_mode="multi_hot"), whole=9),
    "Discretization": Case(VECTOR, LAYERS.Discretization([0.0, 0.5], output_mode="one_hot")),
    "ActivityRegularization": Case(VECTOR, LAYERS.ActivityRegularization(l2=0.1)),
}


@cloister.plan
def loss(model: Any, x: Any, y: Any) -> dict[str, torch.Tensor]:
    """The loss of all these models, the penalties of their layers among it."""
    logits = model(x, training=True)
    return {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits) + sum(model.losses)}


def build(case: Case) -> Any:
    """The model; its values are the same whenever it is built."""
    keras.utils.set_random_seed(7)
    given = keras.Input(case.shape, dtype="float32" if case.whole is None else "int32")
    layer = case.layer
    fresh = type(layer).from_config(layer.get_config()) if isinstance(layer, LAYERS.Layer) else layer
    return keras.Model(given, LAYERS.Dense(CLASSES)(LAYERS.Flatten()(fresh(given))))


def data(case: Case, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some rows, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    size = (ROWS, *case.shape)
    classes = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    if case.whole is None:
        return torch.randn(size, generator=generator), classes
    return torch.randint(0, case.whole, size, generator=generator, dtype=torch.int32), classes


def at_worker(case: Case, worker: Any) -> Any:
    """The model after three steps at a worker."""
    model = build(case).send(worker)
    x, y = (each.send(worker) for each in data(case, 0))
    step(model, x, y, steps=3)
    return model.get()


def step(model: Any, x: Any, y: Any, *, steps: int = 1) -> None:
    """Plain steps of SGD."""
    optimizer = torch.optim.SGD([each.value for each in model.trainable_variables], lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, x, y)["loss"].backward()
        optimizer.step()


def simulated(case: Case) -> cloister.SimulationRun:
    """Two rounds of four owners."""
    return cloister.simulate(
        build(case),
        loss,
        owners={f"owner{at}": data(case, at) for at in range(OWNERS)},
        optimizer=cloister.SGD(lr=RATE),
        batch_size=ROWS,
        rounds=2,
        on_round=lambda each: None,
    )


class Outcome(NamedTuple):
    """What came of a layer, with the models that were trained, and the line of the table."""

    pointers: Any
    run: cloister.SimulationRun | None
    line: str


def outcome(name: str, worker: Any) -> Outcome:
    """Tries a layer in all ways."""
    case, why = CASES[name], ""
    trained, run = None, None
    try:
        trained = at_worker(case, worker)
    except cloister.CloisterError as fault:
        why = str(fault)
    try:
        run = simulated(case)
    except cloister.CloisterError as fault:
        why = str(fault)
    way = "no" if run is None else "vectorised" if run.vectorised else "replayed"
    if run is not None and run.replayed:
        why = next(iter(run.replayed))
    why = next((words for said, words in REASONS.items() if said in why), why)
    there, plan = ("no" if each is None else "yes" for each in (trained, run))
    return Outcome(trained, run, f"| `{name}` | {there} | {plan} | {way} | {why} |")


def main() -> None:
    """Prints the table."""
    worker = cloister.VirtualWorker(id="bob")
    print("\n".join([HEAD, *(outcome(name, worker).line for name in CASES)]))


if __name__ == "__main__":
    main()
