"""Models and updates as flat vectors of NumPy's, laid out as ``cloister.wire.layout`` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.errors import AggregationError
from cloister.wire.layout import Layout

Vector: TypeAlias = NDArray[np.floating[Any]]
"""One dimension, float32 or float64."""

BLOCK: Final = 1 << 15
"""Elements that are worked on at a time: what is computed on the way stays in a core's cache, however large the model.
"""


def blocks(length: int) -> Iterator[slice]:
    """The parts of a vector, ``BLOCK`` elements each."""
    return (slice(start, start + BLOCK) for start in range(0, length, BLOCK))


def check(vector: Vector, *, length: int, what: str, finite: bool = False) -> None:
    """Refuses what is no vector of ``length`` finite numbers; ``what`` names it in the message. ``finite``: whether the
    values are known to be.

    Raises:
        AggregationError: another length, shape or element type, or a value that is NaN or infinite.
    """
    if vector.ndim != 1 or vector.dtype not in (np.float32, np.float64):
        raise AggregationError(f"{what} is not a flat vector of float32 or float64")
    if len(vector) != length:
        raise AggregationError(f"{what} has {len(vector)} values where the model has {length}")
    for block in () if finite else blocks(length):
        if not np.isfinite(vector[block]).all():
            raise AggregationError(f"{what} holds a value that is not finite")


def flatten(tensors: Mapping[str, NDArray[Any]], *, layout: Layout) -> Vector:
    """The vector of these tensors. bfloat16, which NumPy lacks, comes as float32.

    Raises:
        AggregationError: other names or shapes than the layout has.
    """
    if set(tensors) != {place.name for place in layout.places}:
        raise AggregationError("these are not the tensors of the layout")
    vector: Vector = np.empty(layout.length, layout.dtype)
    for name, spec, start, stop in layout.places:
        if tensors[name].shape != spec.shape:
            raise AggregationError(f"tensor {name!r} has shape {tensors[name].shape} where the layout has {spec.shape}")
        vector[start:stop] = tensors[name].reshape(-1)
    return vector


def unflatten(vector: Vector, *, layout: Layout) -> dict[str, Vector]:
    """Each tensor as a view of the vector, in the vector's element type.

    Raises:
        AggregationError: another length than the layout has.
    """
    if vector.shape != (layout.length,):
        raise AggregationError(f"a vector of shape {vector.shape} where the layout has {layout.length} values")
    return {name: vector[start:stop].reshape(spec.shape) for name, spec, start, stop in layout.places}
