"""What the headers of ``.npy`` and ``.safetensors`` files say, read without believing it.

``.npy`` is NumPy's format (numpy.lib.format, versions 1.0 to 3.0). ``.safetensors`` starts with the length of a JSON
header, u64 little-endian, and the header (https://github.com/huggingface/safetensors, "Format").

The readers raise ``ValueError`` or ``WireError`` for what is broken, and ``DataSetError`` for what is whole and cannot
be used; whoever opens the file adds its name. No PyTorch is imported here, so that a node can tell what its data sets
are without it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from cloister.errors import DataSetError, meant
from cloister.files import opened
from cloister.wire.limits import DIMENSIONS, SIZE
from cloister.wire.tensors import TensorSpec

NUMPY_TYPES: Final = {
    "?": "bool",
    "b1": "bool",
    "u1": "uint8",
    "i1": "int8",
    "i2": "int16",
    "u2": "uint16",
    "i4": "int32",
    "u4": "uint32",
    "i8": "int64",
    "u8": "uint64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
}
SAFETENSORS_TYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
HEADER_BYTES: Final = 1 << 20
"""The longest header of a ``.safetensors`` file that is read: a data set has a few columns, and no thousands of
tensors."""

WEIGHTS_HEADER_BYTES: Final = 1 << 24
"""The longest header of a file that holds a model's weights: 100,000 tensors, some 150 bytes each."""

NPY_HEADER_BYTES: Final = 1 << 16
"""The longest header of a ``.npy`` file: as long as version 1.0 can have it."""

_NPY_FIELD: Final = re.compile(
    r"""[ ]*+ '(?P<name> descr | fortran_order | shape )' [ ]*+ : [ ]*+
        (?: '(?P<text> [^']*+ )' | (?P<truth> True | False ) | \( (?P<sizes> [0-9, ]*+ ) \) | (?P<records> \[ ) )
        [ ]*+ ,?+ [ ]*+""",
    re.VERBOSE,
)
"""One entry of the dictionary in a ``.npy`` header. No part gives back what it took: the time is the length's."""
_NPY_KINDS: Final = {"descr": "text", "fortran_order": "truth", "shape": "sizes"}


class Stored(NamedTuple):
    """An array in a file: what it is, at which byte its values start, and whether they are stored by columns."""

    spec: TensorSpec
    start: int
    by_columns: bool = False


def read_npy(file: IO[bytes]) -> Stored:
    """The array of a ``.npy`` stream, which is left at its first value."""
    magic = _exactly(file, 8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError("it does not start as a .npy file does")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(_exactly(file, width), "little")
    if length > NPY_HEADER_BYTES:
        raise ValueError(f"it claims a header of {length} bytes, and has {NPY_HEADER_BYTES} at most")
    fields = _npy_fields(_exactly(file, length).decode("utf-8" if magic[6] == 3 else "latin-1"))
    sizes = _npy_sizes(fields["shape"])
    return Stored(
        _checked(TensorSpec(_numpy_type(fields["descr"]), sizes)),
        8 + width + length,
        by_columns=fields["fortran_order"] == "True" and len(sizes) > 1,
    )


def _npy_fields(header: str) -> dict[str, str]:
    """The three entries of a ``.npy`` header, as they are written."""
    text = header.strip()
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError("its header describes no array")
    fields: dict[str, str] = {}
    at, end = 1, len(text) - 1
    while at < end:
        field = _NPY_FIELD.match(text, at, end)
        if field is None or field["name"] in fields:
            raise ValueError("its header describes no array")
        if field["records"]:
            raise DataSetError("records of several fields cannot be used, only plain arrays")
        if field.lastgroup != _NPY_KINDS[field["name"]]:
            raise ValueError("its header describes no array")
        fields[field["name"]] = field[_NPY_KINDS[field["name"]]]
        at = field.end()
    if len(fields) != len(_NPY_KINDS):
        raise ValueError("its header describes no array")
    return fields


def _npy_sizes(text: str) -> tuple[int, ...]:
    """The sizes in ``3, 4`` or ``3,``; each is at most ``SIZE``, and so has at most 15 digits."""
    sizes = [size.strip() for size in text.split(",")]
    if sizes[-1] == "":
        sizes.pop()
    if len(sizes) > DIMENSIONS or not all(size.isdigit() and len(size) <= len(str(SIZE)) for size in sizes):
        raise ValueError("its header describes no array of a size that can be")
    return tuple(map(int, sizes))


def read_safetensors(file: IO[bytes], *, tensor: str, size: int) -> Stored:
    """One tensor of a ``.safetensors`` file of ``size`` bytes."""
    return next(tensors_of_safetensors(file, names=(tensor,), size=size))


def tensors_of_safetensors(file: IO[bytes], *, names: Iterable[str], size: int) -> Iterator[Stored]:
    """Tensors of a ``.safetensors`` file of ``size`` bytes, in the order of their names."""
    length = safetensors_header(file, size=size)
    header = json.loads(_exactly(file, length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    for name in names:
        if name == "__metadata__" or name not in header:
            raise missing(name, [other for other in header if other != "__metadata__"])
        stored = _stored(header[name], length, size)
        if stored is None:
            raise DataSetError(
                f"element type {header[name]['dtype']!r} cannot be used; convert it, for instance to F32"
            )
        yield stored


def all_of_safetensors(file: IO[bytes], *, size: int) -> dict[str, Stored]:
    """All tensors of a ``.safetensors`` file of ``size`` bytes that holds a model's weights, by their names. Those of
    element types that are not known here are left out."""
    header = json.loads(_exactly(file, length := safetensors_header(file, size=size, limit=WEIGHTS_HEADER_BYTES)))
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    header.pop("__metadata__", None)
    return {name: stored for name, entry in header.items() if (stored := _stored(entry, length, size)) is not None}


def safetensors_header(file: IO[bytes], *, size: int, limit: int = HEADER_BYTES) -> int:
    """How long the header of a ``.safetensors`` file of ``size`` bytes is, which comes next in it.

    The format's own library reads headers of 100 MB, and takes a gigabyte for one.
    """
    length = int.from_bytes(_exactly(file, 8), "little")
    if not 2 <= length <= min(limit, size - 8):
        raise ValueError(f"it claims a header of {length} bytes, and {limit} are read at most")
    return length


def check_safetensors(path: Path, *, limit: int = HEADER_BYTES) -> None:
    """Looks at the length of a file's header, before the format's own library reads it.

    Raises:
        OSError, ValueError: it is no regular file, or its header is longer than ``limit`` bytes.
    """
    with opened(path) as file:
        safetensors_header(file, size=os.fstat(file.fileno()).st_size, limit=limit)


def missing(tensor: str, present: Sequence[str]) -> DataSetError:
    """What to raise where a file does not hold a tensor."""
    listed = ", ".join(sorted(present)[:20]) or "nothing"
    return DataSetError(f"the file holds no tensor {tensor!r}; it holds {listed}{meant(tensor, present)}")


def _stored(entry: Any, length: int, size: int) -> Stored | None:
    """A tensor of a file of ``size`` bytes with a header of ``length``; None if its element type is not known."""
    dtype, shape, start, end = _entry(entry)
    if dtype not in SAFETENSORS_TYPES:
        return None
    spec = _checked(TensorSpec(SAFETENSORS_TYPES[dtype], shape))
    if not 0 <= start <= end <= size - 8 - length or end - start != spec.nbytes():
        raise ValueError("it does not hold all of its values")
    return Stored(spec, 8 + length + start)


def _entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            if all(type(size) is int and 0 <= size <= SIZE for size in shape):
                return dtype, tuple(shape), start, end
    raise ValueError("its header describes a tensor wrongly")


def _numpy_type(descr: str) -> str:
    order, kind = descr[:1], descr[1:]
    if kind.startswith("O"):
        raise DataSetError("an array of Python objects is never loaded; save numbers")
    if order not in ("<", "|") or kind not in NUMPY_TYPES:
        raise DataSetError(f"element type {descr!r} cannot be used; convert it, for instance to float32")
    return NUMPY_TYPES[kind]


def _checked(spec: TensorSpec) -> TensorSpec:
    if len(spec.shape) > DIMENSIONS:
        raise ValueError(f"it claims an array of {len(spec.shape)} dimensions")
    spec.nbytes()
    return spec


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise ValueError("it ends within its header")
    return data
