"""A model's weights as they are looked at for traps: each a matrix of units, with the biases that belong to them."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]
Severity = Literal["grave", "odd"]

SAMPLED_ROWS: Final = 2048
SAMPLED_COLUMNS: Final = 4096
"""Of a larger layer so many rows and columns are compared with one another."""

PATCH: Final = 49
"""A kernel on one channel that is no larger sees a patch and no row; trained ones are often alike, or copy."""

PRODUCT_SIZE: Final = 16
"""Through a narrower middle, all that comes out is honestly alike."""

_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """Something in a tensor that can be there to read single rows of data out of a mean."""

    tensor: str
    kind: str
    severity: Severity
    """``grave``: there is hardly an honest reason for it. ``odd``: unusual, though an honest model may have it."""
    text: str
    """What it is, and what a model with it could do, for an owner to read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A weight of at least two dimensions: a row for each unit, and what each does with its input in a column."""

    name: str
    rows: NDArray[Any]
    """Of shape (units, inputs), with finite values."""
    biases: Doubles | None
    """One for each unit; None where no tensor of that name and size is there."""
    norms: Doubles
    """The Euclidean norm of each row."""
    peaks: Doubles
    """The greatest size of a value in each row."""
    loose: tuple[Doubles, ...] = ()
    """Where it has no biases: the vectors of as many values that belong to no other weight."""
    seed: bytes
    """By which rows and columns are picked: the digest of all values. Whoever wants others looked at has to change the
    values, and then gets others again."""
    is_matrix: bool
    """Whether the tensor itself has two dimensions."""
    is_patch: bool
    """Whether a unit sees a small patch of one channel."""

    @property
    def units(self) -> int:
        """The number of rows."""
        return int(self.rows.shape[0])

    @property
    def inputs(self) -> int:
        """The number of columns."""
        return int(self.rows.shape[1])

    def picked(self, *, rows: int = SAMPLED_ROWS) -> NDArray[np.intp]:
        """Which rows are compared: at most so many of those that are not zero."""
        return _some(np.flatnonzero(self.norms > 0.0), rows, self.seed)

    def sample(self, picked: NDArray[np.intp], *, columns: int = SAMPLED_COLUMNS) -> NDArray[np.float32]:
        """These rows, each divided by its greatest value's size, and at most so many columns."""
        chosen = _some(np.arange(self.inputs), columns, self.seed)
        scaled = self.rows[np.ix_(picked, chosen)] / self.peaks[picked, None]
        return scaled.astype(np.float32)


def layer(
    name: str, values: NDArray[Any], *, biases: NDArray[Any] | None = None, loose: tuple[Doubles, ...] = ()
) -> Layer:
    """The layer that finite ``values`` of at least two dimensions make."""
    rows = values.reshape(values.shape[0], -1)
    norms, peaks = np.zeros(len(rows)), np.zeros(len(rows))
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        some = np.abs(rows[start : start + step].astype(np.float64))
        peaks[start : start + step] = some.max(axis=1, initial=0.0)
        scale = np.where(peaks[start : start + step] > 0.0, peaks[start : start + step], 1.0)
        some /= scale[:, None]
        norms[start : start + step] = np.sqrt(np.einsum("ij,ij->i", some, some)) * scale
    patch = values.ndim > 2 and values.shape[1] == 1 and rows.shape[1] <= PATCH
    fits = biases is not None and biases.shape == (len(rows),)
    return Layer(
        name=name,
        rows=rows,
        biases=np.asarray(biases, dtype=np.float64) if fits else None,
        norms=norms,
        peaks=peaks,
        seed=hashlib.sha256(np.ascontiguousarray(rows).data.cast("B")).digest() if rows.size else b"",
        loose=() if fits else loose,
        is_matrix=values.ndim == 2,
        is_patch=patch,
    )


def layers_of(tensors: Mapping[str, NDArray[Any]]) -> list[Layer]:
    """The layers among tensors of finite values, in the order of their names (``a.2`` before ``a.10``)."""
    weights = [name for name in tensors if tensors[name].ndim >= 2 and len(tensors[name]) > 1 and tensors[name].size]
    taken = {bias_name(name) for name in weights}
    vectors = [values.astype(np.float64) for name, values in tensors.items() if values.ndim == 1 and name not in taken]
    found = []
    for name in sorted(weights, key=_natural):
        values = tensors[name]
        loose = tuple(vector for vector in vectors if len(vector) == len(values))
        found.append(layer(name, values, biases=tensors.get(bias_name(name)), loose=loose))
    return found


def products_of(layers: list[Layer]) -> Iterator[Layer]:
    """What two neighbours compute together where nothing stands between them, as one layer."""
    for first, second in itertools.pairwise(layers):
        sizes = (*first.rows.shape, *second.rows.shape)
        if second.inputs != first.units or not first.is_matrix or not second.is_matrix:
            continue
        picked = second.picked(rows=SAMPLED_ROWS // 4)
        if min(sizes) < PRODUCT_SIZE or max(first.rows.shape) > SAMPLED_COLUMNS or not len(picked):
            continue
        rows = second.rows[picked].astype(np.float64)
        biases = None if second.biases is None else second.biases[picked]
        if first.biases is not None:
            biases = rows @ first.biases + (0.0 if biases is None else biases)
        product = rows @ first.rows.astype(np.float64)
        if np.isfinite(product).all():
            yield layer(f"{second.name} after {first.name}", product, biases=biases)


def bias_name(weight: str) -> str:
    """What the bias beside a weight is called: ``a.bias`` for ``a.weight``, ``bias_ih_l0`` for ``weight_ih_l0``."""
    owner, dot, last = weight.rpartition(".")
    return f"{owner}{dot}{last.replace('weight', 'bias')}"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _some(of: NDArray[np.intp], limit: int, seed: bytes) -> NDArray[np.intp]:
    """At most so many of these, in order."""
    if len(of) <= limit:
        return of
    return np.sort(np.random.default_rng(list(seed)).choice(of, limit, replace=False))


def share(part: int, whole: int) -> str:
    """``3 of 8 rows (38%)``, for a person."""
    return f"{part} of {whole} rows ({math.floor(100 * part / whole + 0.5)}%)"
