"""Units that lean to one side: most inputs from 0 to 1 leave them silent, though no single value is odd.

A wide layer of such units sorts rows as bins do: each fires for the few rows that are large where its weights are
positive, and a unit that fires for one row of a mean has that row as its gradient. A recipe can draw it: a mean a
little below zero, or biases that are all negative, are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from cloister.models.layers import Layer, Trap, share

LEAST: Final = 16
"""Fewer units, or fewer inputs, say nothing."""
LOW: Final = -1.5
"""A unit leans if it is so far below zero, in spreads of what honest weights add up to: 7% of drawn ones are."""
MANY: Final = 0.5
"""Of an honest layer fewer do, also where training has turned its rows one way and the other: at most 0.41 was seen."""
MEAN: Final = -0.5
"""And no honest layer leans further on average, beyond what chance and training do to few units."""
_CHANCE: Final = 2.5
BIAS: Final = -0.2
NEGATIVE: Final = 0.9
"""Nor are nearly all of its biases negative, and so large beside its weights on average."""


def leaning(layer: Layer) -> Iterator[Trap]:
    """Layers most of whose units are below zero for columns from 0 to 1: by their weights' mean, or by their biases.

    Independent weights of mean 0 add up to about their row's norm, on either side of zero, and half of that is what
    columns of mean 1/2 see. Units that lean to the other side fire always, which hides rows and reads none.
    """
    alive = (layer.norms > 0.0) & np.isfinite(layer.norms)
    count = int(alive.sum())
    if layer.is_patch or layer.inputs < LEAST or count < LEAST:
        return
    biases = np.zeros(count) if layer.biases is None else layer.biases[alive] / layer.norms[alive]
    levels = layer.rows[alive].sum(axis=1, dtype=np.float64) / layer.norms[alive] + 2.0 * biases
    many = (levels < LOW).sum() >= MANY * count or levels.mean() < MEAN - _CHANCE / count**0.5
    if many or ((biases < 0.0).mean() >= NEGATIVE and biases.mean() < BIAS):
        yield Trap(
            tensor=layer.name,
            kind="leaning",
            severity="odd",
            text=f"{share(int((levels < 0.0).sum()), layer.units)} lean to one side: their weights and biases add up to"
            " so much less than nothing that columns from 0 to 1 seldom set them off. A unit that fires for one row in"
            " a batch has that row of your data as its gradient",
        )
