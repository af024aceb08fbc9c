"""A model as one flat vector: which value stands where.

    The tensors of a model that are learned stand in the order of their names, compared by code point (``"a.10"`` before
    ``"a.2"``), each with its values in row-major order, end to end, without padding. The vector's element type is
    float64 if any of the tensors is float64, and float32 otherwise, which holds float16 and bfloat16 exactly.

Learned are the parameters that a plan trains and the buffers that it writes, those of floating point. What else a model
has stays as it is, and never travels.

Names decide the order because both ends know them; the order in which a module registers its tensors is an accident of
the code that built it. What is no floating-point tensor (``num_batches_tracked`` counts in int64) is not learned, and a
tied weight's second name is no part of the vector: it is one tensor, and counted once.

``cloister.worker.flatten`` reads and writes such vectors with PyTorch, ``cloister.aggregation.vectors`` with NumPy.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from cloister.errors import LimitError, MessageError
from cloister.wire.limits import SIZE
from cloister.wire.tensors import TensorSpec

FLOATS: Final = ("float16", "bfloat16", "float32", "float64")
"""The element types that a vector can hold."""
Half = Literal["bfloat16", "float16"]
"""Those in which one may travel, rounded to two bytes a value (``cloister.wire.halves``)."""
HALF_BYTES: Final = 2


def is_learned(dtype: str, after: int | None) -> bool:
    """Whether a tensor of a model is learned. ``after``: what the plan makes of it, its gradient or its new value, by
    number; None: nothing."""
    return after is not None and dtype in FLOATS


class Place(NamedTuple):
    """One tensor's place: elements ``start`` to ``stop`` of the vector."""

    name: str
    spec: TensorSpec
    start: int
    stop: int


class Layout(Struct, frozen=True):
    """Where each tensor of a model stands in its vector; made by ``lay_out``."""

    places: tuple[Place, ...]

    @property
    def length(self) -> int:
        """The vector's number of elements."""
        return self.places[-1].stop if self.places else 0

    @property
    def dtype(self) -> str:
        """The vector's element type, ``float32`` or ``float64``."""
        return "float64" if any(place.spec.dtype == "float64" for place in self.places) else "float32"

    @property
    def nbytes(self) -> int:
        """The vector's length in bytes."""
        return self.length * (8 if self.dtype == "float64" else 4)


class Regions(NamedTuple):
    """The stretches of a vector that hold parameters, and those that hold buffers; each ascending, none empty."""

    parameters: tuple[slice, ...]
    buffers: tuple[slice, ...] = ()


def regions_of(layout: Layout, *, buffers: Container[str]) -> Regions:
    """The regions of a vector, of which the tensors of these names are buffers."""
    found: tuple[list[slice], list[slice]] = ([], [])
    for place in layout.places:
        kind = found[place.name in buffers]
        if kind and kind[-1].stop == place.start:
            kind[-1] = slice(kind[-1].start, place.stop)
        elif place.start < place.stop:
            kind.append(slice(place.start, place.stop))
    return Regions(tuple(found[0]), tuple(found[1]))


def lay_out(specs: Mapping[str, TensorSpec]) -> Layout:
    """The layout of tensors that go by these names.

    Raises:
        MessageError: an element type that is no floating-point type.
        LimitError: more elements than any tensor may have.
    """
    places = []
    start = 0
    for name in sorted(specs):
        spec = specs[name]
        if spec.dtype not in FLOATS:
            raise MessageError(
                f"tensor {name!r} is of {spec.dtype!r}; a model's vector holds floating-point tensors only: "
                + ", ".join(FLOATS)
            )
        stop = start + spec.count()
        places.append(Place(name, spec, start, stop))
        start = stop
    if start > SIZE:
        raise LimitError(f"a model of {start} elements is over the limit of {SIZE}")
    return Layout(tuple(places))
