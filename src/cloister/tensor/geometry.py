"""What is known of a tensor without its values: element type, shape, strides, and its place in its storage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Final
from weakref import WeakValueDictionary

import torch

from cloister.errors import OpRefusedError
from cloister.wire.limits import SIZE
from cloister.wire.tensors import ITEM_BYTES

DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in ITEM_BYTES}
"""The element types that travel, by the name they travel under."""
DTYPE_NAMES: Final[dict[torch.dtype, str]] = {dtype: name for name, dtype in DTYPES.items()}
EMPTY_PLACES: Final = 1 << 26
"""So many places may the other dimensions of a tensor have, where one dimension has none."""


def check_extents(shape: Iterable[int], strides: Iterable[int] = ()) -> None:
    """Refuses extents that cannot be told of, and a tensor without elements whose other dimensions are without measure:
    it needs no memory, so that no limit holds it, and kernels go through the places where elements would be.

    Raises:
        OpRefusedError: it is one.
    """
    sizes = list(shape)
    if math.prod(sizes) > SIZE or max(chain(sizes, strides), default=0) > SIZE:
        raise OpRefusedError(f"a tensor of shape {sizes} is over the limit of {SIZE} elements, or so are its strides")
    if 0 in sizes and math.prod(filter(None, sizes)) > EMPTY_PLACES:
        raise OpRefusedError(
            f"a tensor of shape {sizes} has no elements and too many places for them; make its other dimensions smaller"
        )


class Geometry:
    """An immutable, interned description: two of equal content are the same object, so that one compares and hashes
    by identity.

    ``shape`` and ``strides`` are in elements, ``offset`` is the first element's place in the storage,
    ``storage_bytes`` the length of the whole storage that the tensor is a view of; ``dense``: and of no more than it.
    """

    __slots__ = ("__weakref__", "dense", "dtype", "nbytes", "offset", "shape", "storage_bytes", "strides")

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage_bytes: int
    nbytes: int
    dense: bool

    @staticmethod
    def make(
        dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], *, offset: int = 0, storage_bytes: int
    ) -> Geometry:
        """The one geometry of this content."""
        key = (dtype, shape, strides, offset, storage_bytes)
        known = _interned.get(key)
        if known is not None:
            return known
        made = Geometry()
        made.dtype, made.shape, made.strides, made.offset, made.storage_bytes = key
        made.nbytes = math.prod(shape) * dtype.itemsize
        made.dense = made.nbytes == storage_bytes
        _interned[key] = made
        return made

    @property
    def end_bytes(self) -> int:
        """Where the last element ends, in bytes from where the storage begins; 0 where there is none."""
        if not self.nbytes:
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (self.offset + last + 1) * self.dtype.itemsize

    @staticmethod
    def of(tensor: torch.Tensor) -> Geometry:
        """The geometry of a strided tensor, which may be fake."""
        return Geometry.make(
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            offset=int(tensor.storage_offset()),
            storage_bytes=tensor.untyped_storage().nbytes(),
        )

    @staticmethod
    def contiguous(dtype: torch.dtype, shape: tuple[int, ...]) -> Geometry:
        """The geometry of a tensor of its own, row-major, as one arrives from the wire."""
        strides = [1] * len(shape)
        for i in range(len(shape) - 2, -1, -1):
            strides[i] = strides[i + 1] * max(shape[i + 1], 1)
        return Geometry.make(dtype, shape, tuple(strides), storage_bytes=math.prod(shape) * dtype.itemsize)

    def __repr__(self) -> str:
        return f"{DTYPE_NAMES.get(self.dtype, self.dtype)}[{', '.join(map(str, self.shape))}]"


_interned: WeakValueDictionary[tuple[object, ...], Geometry] = WeakValueDictionary()
