"""Rows whose halves cancel: trap weights.

Half of each row is negative, and the positive half is its mirror, a little smaller. Hardly any input makes such a unit
fire, so that the gradient of one that does is a single row of the data. F. Boenisch et al., "When the Curious Abandon
Honesty: Federated Learning Is Not Private", EuroS&P 2023.

A row of independent values has its own number of negative ones, and no half that is a multiple of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloister.models.layers import Doubles, Layer, Trap, share

LEAST: Final = 16
"""Fewer rows, or fewer values in a row, say nothing."""
CHANCE: Final = 1e-10
"""An accident of this probability is none."""

_MIRROR: Final = 0.3
_MIRRORED: Final = 8
_MIRRORED_SHARE: Final = 20
_DENSE: Final = 0.9
_EQUAL: Final = 0.3
_TURNED: Final = 0.1
_PATTERN: Final = 1.6
"""Of two independent rows of signs the agreement is 0.8 over the root of their length, on average."""
_PATTERN_ROWS: Final = 512
_BLOCK: Final = 1 << 20


def trap_weights(layer: Layer) -> Iterator[Trap]:
    """Rows that were made so that their halves nearly cancel."""
    picked = layer.picked()
    if layer.is_patch or layer.inputs < LEAST or len(picked) < LEAST:
        return
    facts = _counted(layer, picked)
    common, often = _commonest(facts.negatives)
    mirrored = facts.mirrors < _MIRROR / math.sqrt(layer.inputs)
    if len(facts.rows) < LEAST:
        return
    if _chance_of(often, of=len(facts.rows), inputs=layer.inputs, negative=common) < CHANCE:
        group = facts.negatives == common
        told = f"{share(often, len(facts.rows))} have exactly {common} negative values of {layer.inputs}"
    elif int(mirrored.sum()) >= max(_MIRRORED, len(facts.rows) // _MIRRORED_SHARE):
        group = mirrored
        told = f"in {share(int(mirrored.sum()), len(facts.rows))} the positive half mirrors the negative one"
    else:
        return
    if _have_one_pattern(layer, facts.rows[group]):
        return
    yield Trap(
        tensor=layer.name,
        kind="halves",
        severity="grave",
        text=f"{told}. Weights whose halves nearly cancel make units that one row in many sets off: the gradient of"
        " such a unit is that row of your data",
    )


class _Facts(NamedTuple):
    """Of each row that has few zeros (of others, signs say nothing):"""

    rows: NDArray[np.intp]
    """Which it is."""
    negatives: NDArray[np.intp]
    """How many negative values it has."""
    mirrors: Doubles
    """How far its halves are from mirrors."""


def _counted(layer: Layer, picked: NDArray[np.intp]) -> _Facts:
    found = []
    step = max(1, _BLOCK // layer.inputs)
    for start in range(0, len(picked), step):
        some = picked[start : start + step]
        rows = layer.rows[some]
        dense = np.count_nonzero(rows, axis=1) > _DENSE * layer.inputs
        rows, negatives = rows[dense], np.count_nonzero(rows[dense] < 0.0, axis=1)
        mirrors = np.full(len(rows), np.inf)
        # Noise turns some signs: mirrors have half of them negative, nearly.
        half = np.abs(negatives - layer.inputs / 2) <= max(1.0, _TURNED * math.sqrt(layer.inputs))
        scaled = rows[half].astype(np.float64) / layer.peaks[some[dense][half], None]
        mirrors[half] = _mirrors(np.sort(scaled, axis=1))
        found.append(_Facts(some[dense], negatives, mirrors))
    return _Facts(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _have_one_pattern(layer: Layer, group: NDArray[np.intp]) -> bool:
    """Whether rows have their signs in the same places, or in opposite ones, more often than independent rows have.

    Then their numbers of negative values agree for that reason, as in layers that began as zeros a few steps ago.
    """
    group = group[:_PATTERN_ROWS]
    signs = np.sign(layer.rows[group].astype(np.float32))
    agreement = np.abs(signs @ signs.T) / layer.inputs
    others = len(group) * (len(group) - 1)
    return bool((agreement.sum() - np.trace(agreement)) > _PATTERN / math.sqrt(layer.inputs) * others)


def _mirrors(rows: Doubles) -> Doubles:
    """How far the upper half of each sorted row is from a multiple of the lower one, relatively; infinitely where all
    values are of about one size, as after a first step of Adam, so that halves are mirrors of themselves."""
    half = rows.shape[1] // 2
    below, above = -rows[:, :half], rows[:, ::-1][:, :half]
    size = np.einsum("ij,ij->i", below, below)
    factors = np.einsum("ij,ij->i", below, above) / np.where(size > 0.0, size, 1.0)
    rest = above - factors[:, None] * below
    length = np.linalg.norm(above, axis=1)
    sizes = np.abs(rows)
    equal = sizes.std(axis=1) < _EQUAL * sizes.mean(axis=1)
    return np.where(equal | (length == 0.0), np.inf, np.linalg.norm(rest, axis=1) / np.where(length > 0.0, length, 1.0))


def _commonest(counts: NDArray[np.intp]) -> tuple[int, int]:
    found = np.bincount(counts, minlength=1)
    return int(found.argmax()), int(found.max())


def _chance_of(often: int, *, of: int, inputs: int, negative: int) -> float:
    """A bound on how probably so many rows of independent signs have one number of negative values."""
    if negative in (0, inputs):  # all of one sign: a layer of positive weights is nothing to be afraid of
        return 1.0
    log_one = math.lgamma(inputs + 1) - math.lgamma(negative + 1) - math.lgamma(inputs - negative + 1)
    one = math.exp(log_one - inputs * math.log(2.0))
    # Signs need not be even: the commonest number is taken for as probable as the middle one.
    middle = math.exp(math.lgamma(inputs + 1) - 2 * math.lgamma(inputs / 2 + 1) - inputs * math.log(2.0))
    one, seen = max(one, middle), often / of
    if seen <= one:
        return 1.0
    if seen == 1.0:
        return inputs * one**of
    # Chernoff's bound of the binomial tail.
    return inputs * math.exp(-of * (seen * math.log(seen / one) + (1 - seen) * math.log((1 - seen) / (1 - one))))
