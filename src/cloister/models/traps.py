"""Looks for traps in a first model that somebody chose: weights made to read single rows of data out of a mean.

It is a net with holes, and never a proof. What it knows are published attacks and simple ways of hiding them: rows in
another order or of another size, noise of a percent or two, some rows of a layer only, half of a matrix, one matrix
split in two that follow each other. What it does not find, among other things:

* an imprint turned around where nothing stands between two layers that are no neighbours by name, or in the sum of two;
* fewer than a handful of bins, noise as large as the weights, or rows alike in a small part of their columns only;
* units that single rows set off because the weights were *trained* for it on similar data, which look as any others,
  and rows that nearly cancel without two halves that mirror each other;
* one direction in many rows whose layer has no biases, where nothing else in the model could hold their thresholds;
* units that lean to the side that columns of another range than 0 to 1 leave silent, and those of which half lean to
  either side;
* what the training step does: a plan can do all of this without a value that is odd. Nothing here reads plans;
* in layers of more than some thousand rows, what is in few of them: a sample is compared.

What it does find may be honest: there are models with layers that copy, or start silent; deep ones that were trained
for long can have layers that lean, where few inputs are set off at a time; and a last layer of many classes that began
as zeros, some steps ago, on data with a large mean can look like bins in some columns. A model that is drawn by a
recipe (``cloister.models.recipe``) leaves nobody room to set such a trap, except by its distributions: look into what
was drawn as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloister.models.alike import columns, imprints, ranks
from cloister.models.layers import Layer, Severity, Trap, layers_of, products_of
from cloister.models.leaning import leaning
from cloister.models.signs import trap_weights
from cloister.models.units import biases, copies, dead, even, silent, strong, tiny

__all__ = ["Severity", "Trap", "find"]

_LOOKS: Final[tuple[Callable[[Layer], Iterator[Trap]], ...]] = (
    imprints,
    columns,
    ranks,
    trap_weights,
    strong,
    biases,
    silent,
    leaning,
    even,
    copies,
    dead,
    tiny,
)

_FOLLOWS: Final[Mapping[str, set[str]]] = {
    "columns": {"imprint", "alike"},
    "rank": {"imprint", "alike", "columns"},
    "leaning": {"imprint", "alike", "bias", "silent"},
    "halves": {"imprint", "alike", "columns", "rank"},
}
"""What needs no telling where one of these kinds is told of the same layer: rows that are alike have equal signs, and
units of large negative biases lean."""


def find(tensors: Mapping[str, NDArray[Any]]) -> list[Trap]:
    """What looks like a trap in a model's floating-point tensors, by name: the grave first; nothing in most models.

    A layer's biases are found by their name, ``a.bias`` beside ``a.weight``.
    """
    broken = {name for name, values in tensors.items() if not np.isfinite(values).all()}
    found = [_not_finite(name) for name in sorted(broken)]
    with np.errstate(over="ignore"):  # a norm beyond all numbers is infinite, and so far beyond the others
        layers = layers_of({name: values for name, values in tensors.items() if name not in broken})
        for layer in layers:
            found += _of_one(layer)
        for product in products_of(layers):
            found += imprints(product)
    return sorted(found, key=lambda trap: trap.severity)  # which keeps the order of each kind, and "grave" before "odd"


def _of_one(layer: Layer) -> Iterator[Trap]:
    """What is found in a layer, without what only follows from something else that is told."""
    told: set[str] = set()
    for look in _LOOKS:
        for trap in look(layer):
            if not told & _FOLLOWS.get(trap.kind, set()):
                told.add(trap.kind)
                yield trap


def _not_finite(name: str) -> Trap:
    return Trap(
        tensor=name,
        kind="not finite",
        severity="grave",
        text="it holds values that are no numbers, or infinite. They erase what others add to a mean, and no training"
        " begins with them",
    )
