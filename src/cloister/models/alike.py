"""Rows that measure the same thing: the bins of an imprint.

Units with one direction and different biases sort a batch by one measurement. A unit's gradient is then a sum over the
rows of the batch above its threshold, and the difference between neighbouring units is what lies in between: often a
single row. L. Fowl et al., "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with Modified
Models", ICLR 2022; for language models also L. Fowl et al., "Decepticons", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from cloister.models.layers import Doubles, Layer, Trap, share

COSINE: Final = 0.995
"""Rows that are closer point in one direction: noise of 7% of a row's size still does."""
GROUP: Final = 4
"""So many rows in one direction are no accident where they have ``INPUTS`` values each."""
INPUTS: Final = 8
FEWEST_INPUTS: Final = 4
FEW_COSINE: Final = 0.9999
FEW_SHARE: Final = 4
"""Of fewer values each, ``FEWEST_INPUTS`` at least, rows turn into one direction by training alone: there it takes such
a part of all rows, closer yet, to be no accident."""
APART: Final = 0.1
"""Thresholds of bins lie further apart than this, in units of an input of size 1 in the rows' direction..."""
APART_PART: Final = 0.2
"""...and than this part of the greatest. A layer that began as zeros has, after a few steps on data with a large mean,
rows that are nearly multiples of that mean, with biases that are the same multiples of one number."""

_WIDE_INPUTS: Final = 16
_SPIKE_WIDTH: Final = 0.05
_SPIKE_LEAST: Final = 8
_SPIKE_ROWS: Final = 32
_SPIKE_SHARE: Final = 4
_COLUMN_SHARE: Final = 32
_COLUMN_APART: Final = 1.0
_MEMBER: Final = 0.8
_LOOSE: Final = 0.5
_RANK_SAMPLE: Final = 512
_RANK_SHARE: Final = 16
_RANK_REST: Final = 1e-3
_UNEXPLAINED: Final = 0.5


def imprints(layer: Layer) -> Iterator[Trap]:
    """Rows that are proportional to one another, or nearly, and have different thresholds."""
    picked = layer.picked()
    if layer.is_patch or layer.inputs < FEWEST_INPUTS or len(picked) < GROUP:
        return
    few = layer.inputs < INPUTS
    rows = layer.sample(picked)
    lengths = np.linalg.norm(rows, axis=1)
    picked, rows = picked[lengths > 0.0], rows[lengths > 0.0]
    if not len(picked):
        return
    rows /= lengths[lengths > 0.0, None]
    cosines = rows @ rows.T
    near = np.abs(cosines) > (FEW_COSINE if few else COSINE)
    leader = int(near.sum(axis=1).argmax())
    group = picked[near[leader]]
    if len(group) < (max(2 * GROUP, len(picked) // FEW_SHARE) if few else GROUP):
        return
    told = share(len(group), len(picked))
    signs = np.sign(cosines[leader])[near[leader]]
    if layer.biases is not None and _differ(signs * layer.biases[group] / layer.norms[group]):
        yield Trap(
            tensor=layer.name,
            kind="imprint",
            severity="grave",
            text=f"{told} are alike but for their biases. Such a layer sorts the rows of your data into bins by one"
            " measurement: the difference between two bins in a mean is often exactly one row of your data",
        )
    elif layer.biases is None and 2 * len(group) > len(picked) and layer.inputs >= _WIDE_INPUTS and _has_bins(layer):
        yield Trap(
            tensor=layer.name,
            kind="alike",
            severity="odd",
            text=f"{told} point in one direction, and a tensor without a weight beside it, such as the biases of a"
            " normalisation, could hold their thresholds. Such layers sort the rows of your data into bins by one"
            " measurement",
        )


def _differ(thresholds: Doubles, *, part: float = APART_PART) -> bool:
    """Whether units of one direction have different thresholds; equal units sort nothing."""
    return bool(np.ptp(thresholds) > max(APART, part * float(np.abs(thresholds).max())))


def _has_bins(layer: Layer) -> bool:
    """Whether a vector that belongs to no weight is spread as thresholds are."""
    return any(np.ptp(vector) > _LOOSE * max(1.0, float(np.abs(vector).max())) for vector in layer.loose)


def columns(layer: Layer) -> Iterator[Trap]:
    """Rows that agree in many columns, whatever stands in the others, and have different thresholds."""
    picked = layer.picked()
    if layer.is_patch or layer.biases is None or layer.inputs < _WIDE_INPUTS or len(picked) < _SPIKE_ROWS:
        return
    values = layer.sample(picked) * layer.peaks[picked, None].astype(np.float32)
    ordered = np.sort(values, axis=0)
    count, edge = max(_SPIKE_LEAST, len(picked) // _SPIKE_SHARE), len(picked) // 10
    widths = ordered[count - 1 :] - ordered[: len(picked) - count + 1]
    place = widths.argmin(axis=0)
    low, high = (np.take_along_axis(ordered, (place + more)[None], axis=0)[0] for more in (0, count - 1))
    spread = ordered[-edge - 1] - ordered[edge]  # without the ends, which a few far values would set
    room = _SPIKE_WIDTH * np.maximum(spread, np.maximum(np.abs(low), np.abs(high)))
    agree = (high - low < room) & (low * high > 0.0)
    found = int(agree.sum())
    if found <= 2 + values.shape[1] // _COLUMN_SHARE:
        return
    member = ((low - room <= values) & (values <= high + room))[:, agree].mean(axis=1) >= _MEMBER
    thresholds = layer.biases[picked[member]] / layer.norms[picked[member]]
    if len(thresholds) >= GROUP and _differ(thresholds, part=_COLUMN_APART):
        yield Trap(
            tensor=layer.name,
            kind="columns",
            severity="grave",
            text=f"{share(int(member.sum()), len(picked))} have the same values in {found} of {values.shape[1]}"
            " columns, and different biases. Units that measure the same thing with different thresholds sort your data"
            " into bins of single rows",
        )


def ranks(layer: Layer) -> Iterator[Trap]:
    """Fewer directions than a layer of this size has, and biases that do not come of them.

    A layer that began as zeros has few directions too, for some steps, but its biases were learned along with them.
    """
    picked = layer.picked(rows=_RANK_SAMPLE)
    if layer.is_patch or layer.biases is None or min(len(picked), layer.inputs) < _WIDE_INPUTS:
        return
    rows = layer.sample(picked, columns=_RANK_SAMPLE).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    picked, rows = picked[lengths > 0.0], rows[lengths > 0.0] / lengths[lengths > 0.0, None]
    kept = max(1, min(rows.shape) // _RANK_SHARE)
    if len(picked) < _WIDE_INPUTS:
        return
    units, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    if (sizes[kept:] ** 2).sum() >= _RANK_REST * (sizes**2).sum():
        return
    thresholds = layer.biases[picked] / layer.norms[picked]
    rest = thresholds - units[:, :kept] @ (units[:, :kept].T @ thresholds)
    if not thresholds.any() or np.linalg.norm(rest) > _UNEXPLAINED * np.linalg.norm(thresholds):
        yield Trap(
            tensor=layer.name,
            kind="rank",
            severity="odd",
            text=f"a matrix of {layer.units} by {layer.inputs} in which all is said by {kept} direction(s): its many"
            " units measure very few things, as those do that sort your data into bins",
        )
