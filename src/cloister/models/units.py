"""Single units that no honest layer has: dead, far too strong, silent, or passing their input on as it is.

They are what larger attacks are built of. Units that never fire keep back everybody else's part in a gradient (D.
Pasquini et al., "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022); units that fire
for one row in a batch, or one strong class beside silent ones, show that row (Y. Wen et al., "Fishing for User Data in
Large-Batch Federated Learning via Gradient Magnification", ICML 2022; M. V. Nowak et al., "QBI: Quantile-Based Bias
Initialization for Efficient Private Data Reconstruction in Federated Learning", 2024); and what is passed on unchanged
carries rows to where they are read (J. C. Zhao et al., "LOKI", S&P 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Final

import numpy as np

from cloister.models.layers import Doubles, Layer, Trap, share

FAR: Final = 30.0
"""A row, or a bias, is far beyond the others if it is so many times as large."""
CERTAIN: Final = 10.0
"""A bias decides for its unit alone if no input of at most this size can outweigh it."""
COPIES: Final = 0.8
"""A row passes one input on if this part of its square is a single value."""

_TINY: Final = 1e-6
_COPY_INPUTS: Final = 16
_COPY_ROWS: Final = 3
_SILENT_UNITS: Final = 16
_SILENT_SHARE: Final = 0.9
_EVEN_UNITS: Final = 32
_EVEN: Final = 0.25
_FEW_INPUTS: Final = 4


def dead(layer: Layer) -> Iterator[Trap]:
    """Rows of zeros beside others: not a layer that is zero as a whole, nor the one row of a padding index."""
    zeros = int((layer.norms == 0.0).sum())
    most = max(1, layer.units // 2) if layer.biases is None else 1  # rows of a table that no data has touched
    if most < zeros < layer.units:
        yield Trap(
            tensor=layer.name,
            kind="dead",
            severity="odd",
            text=f"{share(zeros, layer.units)} are zeros. Units that do not listen to their input leave a gradient to"
            " the few that do, and through these fewer rows of your data are mixed",
        )


def strong(layer: Layer) -> Iterator[Trap]:
    """Rows far beyond the others."""
    alive = layer.norms[layer.norms > 0.0]
    if layer.inputs < _FEW_INPUTS or len(alive) < 2:
        return
    found = int((alive > FAR * np.median(alive)).sum()) if len(alive) > 2 else int(alive.max() > FAR * alive.min())
    if found:
        yield Trap(
            tensor=layer.name,
            kind="strong",
            severity="grave",
            text=f"{share(found, layer.units)} are more than {FAR:g} times as large as half of the others. A gradient"
            " is then almost that of these units alone, and so of the rows of your data that set them off",
        )


def biases(layer: Layer) -> Iterator[Trap]:
    """Biases that decide for their units, whatever comes in."""
    if layer.biases is None or layer.inputs < _FEW_INPUTS or not layer.norms.any():
        return
    sizes, alive = np.abs(layer.biases), layer.norms > 0.0
    # Beside weights that began as zeros, a small bias decides too: the share of a class, for example.
    outweighed = CERTAIN * np.maximum(1.0, math.sqrt(layer.inputs) * layer.norms[alive])
    decided = int((sizes[alive] > outweighed).sum())
    offsets = np.abs(layer.biases - np.median(layer.biases))
    usual = max(float(np.median(offsets)), float(np.median(layer.norms[alive])))
    beyond = int((offsets > FAR * usual).sum())
    if decided or beyond:
        yield Trap(
            tensor=layer.name,
            kind="bias",
            severity="grave",
            text=f"in {share(max(decided, beyond), layer.units)} the bias outweighs whatever comes in: such units fire"
            " always or never. What never fires adds nothing to a mean, so that the mean can be one owner's alone",
        )


def silent(layer: Layer) -> Iterator[Trap]:
    """A layer whose units hardly ever fire."""
    alive = layer.norms > 0.0
    if layer.biases is None or layer.inputs < _FEW_INPUTS or int(alive.sum()) < _SILENT_UNITS:
        return
    levels = layer.biases[alive] / layer.norms[alive]
    most = float((levels < 0.0).mean()) >= _SILENT_SHARE and float(np.median(levels)) < -1.0
    # With so many inputs a bias that was drawn like the weights stays far above.
    many = layer.inputs >= _COPY_INPUTS and int((levels < -1.0).sum()) >= max(_SILENT_UNITS, len(levels) // 5)
    if most or many:
        yield Trap(
            tensor=layer.name,
            kind="silent",
            severity="odd",
            text=f"in {share(int((levels < -1.0).sum()), layer.units)} the bias is negative and large beside the"
            " weights, as in some detectors of rare objects. A unit that fires for one row in a batch has that row of"
            " your data as its gradient",
        )


def copies(layer: Layer) -> Iterator[Trap]:
    """Rows that pass one input on."""
    alive = layer.norms > 0.0
    if layer.is_patch or layer.inputs < _COPY_INPUTS:
        return
    found = int(((layer.peaks[alive] / layer.norms[alive]) ** 2 > COPIES).sum())
    if found >= _COPY_ROWS:
        yield Trap(
            tensor=layer.name,
            kind="copies",
            severity="odd",
            text=f"{share(found, layer.units)} pass a single input on and leave the others out, nearly or wholly."
            " Layers that copy carry your data unchanged to a later layer, where it can be sorted and read",
        )


def tiny(layer: Layer) -> Iterator[Trap]:
    """A layer that is scaled down as a whole."""
    most = float(layer.norms.max())
    if 0.0 < most < _TINY:
        yield Trap(
            tensor=layer.name,
            kind="tiny",
            severity="odd",
            text=f"no row is larger than {most:.1g}. What comes out of such a layer is almost the same for all rows of"
            " your data, so that gradients before it are sums that are easily taken apart",
        )


def even(layer: Layer) -> Iterator[Trap]:
    """Biases that stand as evenly as the edges of bins."""
    if layer.biases is None or layer.units < _EVEN_UNITS:
        return
    alive = layer.norms > 0.0
    levels = [layer.biases]
    if int(alive.sum()) >= _EVEN_UNITS:
        levels.append(layer.biases[alive] / layer.norms[alive])
    if any(_is_even(np.sort(some)) for some in levels):
        yield Trap(
            tensor=layer.name,
            kind="even",
            severity="odd",
            text="its biases are spaced as evenly as the edges of bins, which those that are drawn or learned are not."
            " Bins with one row of your data in each are how single rows are read out of a mean",
        )


def _is_even(levels: Doubles) -> bool:
    """Whether sorted numbers stand at the quantiles of some usual distribution: their spacings are then equal.

    The spacings of numbers that were drawn are as different as waiting times are.
    """
    edge = len(levels) // 20 + 1
    if len(np.unique(levels)) < len(levels):
        return False
    for probabilities in _DISTRIBUTIONS:
        spacings = np.diff(probabilities(levels))[edge:-edge]
        if spacings.std() < _EVEN * spacings.mean():
            return True
    return False


def _normal(levels: Doubles) -> Doubles:
    cdf = NormalDist(float(levels.mean()), float(levels.std())).cdf
    return np.array([cdf(level) for level in levels.tolist()])


def _flat(levels: Doubles) -> Doubles:
    return levels


def _logistic(levels: Doubles) -> Doubles:
    return np.asarray(1.0 / (1.0 + np.exp((levels.mean() - levels) * (math.pi / math.sqrt(3.0) / levels.std()))))


def _laplace(levels: Doubles) -> Doubles:
    offsets = levels - np.median(levels)
    tails = 0.5 * np.exp(-np.abs(offsets) / np.abs(offsets).mean())
    return np.asarray(np.where(offsets < 0.0, tails, 1.0 - tails))


_DISTRIBUTIONS: Final[tuple[Callable[[Doubles], Doubles], ...]] = (_normal, _flat, _logistic, _laplace)
