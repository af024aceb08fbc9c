"""Models with traps, as attacks that were published make them, and what hides them; the first layers, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Model: TypeAlias = dict[str, NDArray[Any]]
Maker: TypeAlias = Callable[[np.random.Generator], Model]

BINS: Final = 128
INPUTS: Final = 196


def _quantiles(count: int) -> NDArray[np.float64]:
    return np.array([NormalDist().inv_cdf((index + 1) / (count + 1)) for index in range(count)])


def _normal(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    return generator.normal(size=(rows, columns)) / np.sqrt(columns)


def imprint(generator: np.random.Generator, *, measure: str = "mean", bins: int = BINS) -> Model:
    """Robbing the Fed: one measurement, biases at its quantiles, and a next layer that treats all bins alike."""
    row = {
        "mean": np.full(INPUTS, 1 / INPUTS),
        "random": generator.normal(size=INPUTS) / np.sqrt(INPUTS),
        "cosine": np.cos(np.arange(INPUTS) * np.pi / 28) / np.sqrt(INPUTS),
    }[measure]
    return {
        "0.weight": np.tile(row, (bins, 1)),
        "0.bias": -_quantiles(bins) * np.linalg.norm(row),
        "2.weight": np.tile(generator.normal(size=(INPUTS, 1)), (1, bins)) / bins,
        "2.bias": np.zeros(INPUTS),
    }


def trap_weights(generator: np.random.Generator, *, factor: float = 0.95) -> Model:
    """When the Curious Abandon Honesty: in each row, half negative, and the other half its mirror, a little smaller."""
    half = INPUTS // 2
    rows = np.empty((BINS, INPUTS))
    for row in rows:
        places = generator.permutation(INPUTS)
        below = -np.abs(generator.normal(size=half)) / np.sqrt(INPUTS)
        row[places[:half]] = below
        row[places[half:]] = -factor * generator.permutation(below)
    return {"0.weight": rows, "0.bias": np.zeros(BINS)}


def quantile_biases(generator: np.random.Generator) -> Model:
    """QBI: independent rows, and biases for which each fires for one input in 32."""
    rows = generator.normal(size=(BINS, INPUTS))
    return {"0.weight": rows, "0.bias": NormalDist().inv_cdf(1 / 32) * np.linalg.norm(rows, axis=1)}


def suppression(generator: np.random.Generator) -> Model:
    """Eluding Secure Aggregation: biases by which no unit fires, for all owners but one."""
    return {"0.weight": _normal(generator, BINS, INPUTS), "0.bias": np.full(BINS, -1000.0)}


def class_fishing(generator: np.random.Generator) -> Model:
    """Fishing for User Data: a last layer that hears one class, and is certain of what the others are."""
    rows = np.zeros((10, 64))
    rows[3] = generator.normal(size=64)
    biases = np.full(10, 1000.0)
    biases[3] = 0.0
    return {"fc.weight": rows, "fc.bias": biases}


def feature_fishing(generator: np.random.Generator) -> Model:
    """Fishing for User Data: one class whose weights are a thousand times as large."""
    rows = _normal(generator, 10, 64)
    rows[3] *= 1000.0
    return {"fc.weight": rows, "fc.bias": np.zeros(10)}


def loki(generator: np.random.Generator) -> Model:
    """LOKI: kernels that copy a channel each, each times as many as it has, and bins behind them."""
    kernels = np.zeros((12, 3, 3, 3))
    for index in range(12):
        kernels[index, index % 3, 1, 1] = 1.0 + index // 3
    return {
        "0.weight": kernels,
        "0.bias": np.zeros(12),
        **{f"1.{name}": each for name, each in imprint(generator).items()},
    }


def decepticons(generator: np.random.Generator) -> Model:
    """Decepticons: attention that passes its values on, and bins in the layer behind it."""
    size = 32
    attention = np.zeros((3 * size, size))
    attention[2 * size :] = np.eye(size)
    row = np.concatenate([np.zeros(size // 2), generator.normal(size=size // 2)])
    return {
        "layers.0.self_attn.in_proj_weight": attention,
        "layers.0.self_attn.in_proj_bias": np.zeros(3 * size),
        "layers.0.linear1.weight": np.tile(row, (64, 1)),
        "layers.0.linear1.bias": -_quantiles(64) * np.linalg.norm(row),
    }


def sparse_imprint(generator: np.random.Generator) -> Model:
    """One-shot bins: rows of two alike values, with the scale of the bins' widths."""
    rows = np.tile(generator.normal(size=INPUTS), (BINS, 1))
    widths = generator.uniform(0.1, 30.0, size=BINS)
    return {"0.weight": rows * widths[:, None], "0.bias": -_quantiles(BINS) * widths}


def by_normalisation(generator: np.random.Generator) -> Model:
    """Kernels that are all alike, without biases, and bins in the normalisation behind them."""
    kernel = generator.normal(size=(1, 3, 5, 5))
    return {
        "0.weight": np.tile(kernel, (64, 1, 1, 1)),
        "1.weight": np.ones(64),
        "1.bias": -_quantiles(64),
        "1.running_mean": np.zeros(64),
        "1.running_var": np.ones(64),
    }


def near_identity(generator: np.random.Generator) -> Model:
    """A layer that copies, under noise of 1% of what it copies."""
    return {"0.weight": np.eye(64) + 0.01 * generator.normal(size=(64, 64)), "0.bias": np.zeros(64)}


def scaled_down(generator: np.random.Generator) -> Model:
    """A layer by which nothing that comes in makes a difference."""
    return {"0.weight": 1e-7 * _normal(generator, 64, INPUTS), "0.bias": np.ones(64)}


def low_rank(generator: np.random.Generator) -> Model:
    """Five directions in a layer of many."""
    rows = _normal(generator, BINS, 5) @ generator.normal(size=(5, INPUTS))
    return {"0.weight": rows, "0.bias": generator.normal(size=BINS)}


def infinite(generator: np.random.Generator) -> Model:
    """Values that erase all others."""
    rows = _normal(generator, 8, 8)
    rows[3, 4] = np.inf
    return {"0.weight": rows, "0.bias": np.zeros(8)}


PUBLISHED: Final[dict[str, tuple[Maker, str]]] = {
    "imprint by the mean": (imprint, "imprint"),
    "imprint by a random vector": (lambda generator: imprint(generator, measure="random"), "imprint"),
    "imprint by a cosine": (lambda generator: imprint(generator, measure="cosine"), "imprint"),
    "a few bins": (lambda generator: imprint(generator, bins=4), "imprint"),
    "one-shot bins": (sparse_imprint, "imprint"),
    "bins by normalisation": (by_normalisation, "alike"),
    "trap weights": (trap_weights, "halves"),
    "trap weights, nearly even": (lambda generator: trap_weights(generator, factor=0.99), "halves"),
    "trap weights, far from even": (lambda generator: trap_weights(generator, factor=0.5), "halves"),
    "quantile biases": (quantile_biases, "silent"),
    "gradient suppression": (suppression, "bias"),
    "class fishing: dead": (class_fishing, "dead"),
    "feature fishing": (feature_fishing, "strong"),
    "LOKI: bins": (loki, "imprint"),
    "LOKI: kernels": (loki, "copies"),
    "Decepticons: bins": (decepticons, "imprint"),
    "Decepticons: attention": (decepticons, "copies"),
    "near identity": (near_identity, "copies"),
    "scaled down": (scaled_down, "tiny"),
    "low rank": (low_rank, "rank"),
    "infinite": (infinite, "not finite"),
}


def permuted(model: Model, generator: np.random.Generator) -> Model:
    order = generator.permutation(len(model["0.weight"]))
    return {**model, "0.weight": model["0.weight"][order], "0.bias": model["0.bias"][order]}


def scaled(model: Model, generator: np.random.Generator) -> Model:
    factors = np.exp(generator.normal(size=len(model["0.weight"])))
    return {**model, "0.weight": model["0.weight"] * factors[:, None], "0.bias": model["0.bias"] * factors}


def noisy(model: Model, generator: np.random.Generator, *, part: float = 0.01) -> Model:
    def changed(values: NDArray[Any]) -> NDArray[Any]:
        return values + part * values.std() * generator.normal(size=values.shape)

    rows = model["0.weight"]
    spread = np.linalg.norm(rows, axis=1, keepdims=True) / np.sqrt(rows.shape[1])
    return {
        **model,
        "0.weight": rows + part * spread * generator.normal(size=rows.shape),
        "0.bias": changed(model["0.bias"]),
    }


def among_others(model: Model, generator: np.random.Generator) -> Model:
    """Only 30% of the rows are left, the others drawn as PyTorch draws them."""
    rows, biases = model["0.weight"].copy(), model["0.bias"].copy()
    others = generator.permutation(len(rows))[int(0.3 * len(rows)) :]
    bound = np.sqrt(3) * rows.std()
    rows[others] = generator.uniform(-bound, bound, size=(len(others), rows.shape[1]))
    biases[others] = generator.uniform(-bound, bound, size=len(others))
    return {**model, "0.weight": rows, "0.bias": biases}


def float32(model: Model, _: np.random.Generator) -> Model:
    return {name: values.astype(np.float32) for name, values in model.items()}


def all_at_once(model: Model, generator: np.random.Generator) -> Model:
    for hide in (among_others, noisy, scaled, permuted, float32):
        model = hide(model, generator)
    return model


HIDDEN: Final[dict[str, Callable[[Model, np.random.Generator], Model]]] = {
    "permuted": permuted,
    "scaled": scaled,
    "noise of 1%": noisy,
    "30% of the rows": among_others,
    "float32": float32,
    "all at once": all_at_once,
}


def split(generator: np.random.Generator, *, between: int) -> Model:
    """An imprint as the product of two layers that look random: the second holds much that the first makes zero."""
    model = imprint(generator, measure="random")
    first = _normal(generator, between, INPUTS)
    within = np.linalg.lstsq(first.T, model["0.weight"][0], rcond=None)[0] if between >= INPUTS else None
    if within is None:
        wanted = generator.normal(size=between)
        return {
            "0.weight": first,
            "0.bias": np.zeros(between),
            "1.weight": np.tile(wanted, (BINS, 1)),
            "1.bias": model["0.bias"],
        }
    silent = np.linalg.svd(first.T)[2][INPUTS:]  # what the first layer's outputs never have
    hidden = generator.normal(size=(BINS, len(silent))) @ silent * np.linalg.norm(within) * 2
    return {"0.weight": first, "0.bias": np.zeros(between), "1.weight": within + hidden, "1.bias": model["0.bias"]}


def in_other_columns(generator: np.random.Generator, *, part: float = 0.5) -> Model:
    """An imprint in some columns; in the others, which are always zero in the data, stand random values."""
    model = imprint(generator, measure="random")
    quiet = generator.permutation(INPUTS)[: int(part * INPUTS)]
    model["0.weight"][:, quiet] = generator.normal(size=(BINS, len(quiet))) * model["0.weight"].std()
    return model
