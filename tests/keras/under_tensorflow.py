"""What TensorFlow does, in a process and a venv of its own: ``python under_tensorflow.py make|load FOLDER``.

``make`` builds and trains a model, and saves it: ``there.keras``, ``there.weights.h5`` and its predictions. ``load``
reads ``here.keras`` and ``here.weights.h5``, and saves what both predict.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np


def model() -> Any:
    """Images, channels last."""
    layers = keras.layers
    given = keras.Input((8, 6, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(given)
    x = layers.BatchNormalization(momentum=0.8)(x)
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Concatenate()([layers.Flatten()(layers.MaxPooling2D(2)(x)), layers.GlobalAveragePooling2D()(x)])
    x = layers.Dropout(0.2, seed=1)(layers.LayerNormalization()(x))
    return keras.Model(given, layers.Dense(3, name="answer")(x))


def data() -> tuple[Any, Any]:
    """Some images, and their classes."""
    draws = np.random.default_rng(1)
    return draws.normal(size=(32, 8, 6, 3)).astype("float32"), draws.integers(0, 3, 32)


def main() -> None:
    """See above."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    x, y = data()
    if what == "make":
        keras.utils.set_random_seed(5)
        made = model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
        made.fit(x, y, epochs=2, batch_size=8, verbose=0)
        made.save(folder / "there.keras")
        made.save_weights(folder / "there.weights.h5")
        np.save(folder / "there.npy", made.predict(x, verbose=0))
    else:
        whole, weights = keras.models.load_model(folder / "here.keras"), model()
        weights.load_weights(folder / "here.weights.h5")
        for name, each in {"whole": whole, "weights": weights}.items():
            np.save(folder / f"{name}.npy", each.predict(x, verbose=0))


if __name__ == "__main__":
    main()
