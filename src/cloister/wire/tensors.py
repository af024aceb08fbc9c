"""A tensor on the wire: its element type by name, its shape, and its values as raw little-endian bytes.

The bytes are the values in row-major order and nothing else: no strides, no offset, no rest of the storage that a slice
was cut from. No framework is imported here; ``cloister.tensor.values`` turns these into PyTorch tensors.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated, Final

from msgspec import Meta, Struct

from cloister.errors import LimitError, MessageError
from cloister.wire.limits import DIMENSIONS, SIZE

if sys.byteorder != "little":
    raise ImportError("cloister moves tensors as little-endian memory, and this machine is big-endian")

ITEM_BYTES: Final[dict[str, int]] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
"""The element types that travel, with their sizes in bytes."""

DType = Annotated[str, Meta(max_length=16)]
Size = Annotated[int, Meta(ge=0, le=SIZE)]
Shape = Annotated[tuple[Size, ...], Meta(max_length=DIMENSIONS)]


class TensorSpec(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is said of a tensor before its bytes: ``[dtype, shape]``."""

    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    def nbytes(self) -> int:
        """The length of its values in bytes.

        Raises:
            MessageError: an element type that does not travel.
            LimitError: more elements than any tensor may have.
        """
        try:
            item = ITEM_BYTES[self.dtype]
        except KeyError:
            raise MessageError(
                f"element type {self.dtype!r} does not travel; these do: {', '.join(ITEM_BYTES)}"
            ) from None
        return item * self.count()

    def count(self) -> int:
        """Its number of elements.

        Raises:
            LimitError: more than any tensor may have.
        """
        count = math.prod(self.shape)
        if count > SIZE:
            raise LimitError(f"a tensor of {count} elements is over the limit of {SIZE}")
        return count
