"""What is in a data set's file, read from its headers alone: no values are loaded, no NumPy or torch imported.

Formats: ``.npz`` is a zip of ``.npy`` files (numpy.lib.format, versions 1.0 to 3.0); ``.safetensors`` starts with the
length of a JSON header, u64 little-endian, and the header (https://github.com/huggingface/safetensors, "Format").
Either may be sealed (``cloister.node.sealed``): without its key nothing is known of such a file, and the data set stays
locked until the key is there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import msgspec

from cloister.errors import ConfigurationError, WireError
from cloister.net.secrets import Secrets
from cloister.node.config import SEALED, DataSet
from cloister.node.sealed import check_header, open_sealed
from cloister.wire.limits import DIMENSIONS
from cloister.wire.tensors import TensorSpec

_log: Final = logging.getLogger(__name__)
_NUMPY_TYPES: Final = {
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
_SAFETENSORS_TYPES: Final = {
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
_HEADER_BYTES: Final = 100 << 20
"""The longest header that is read; safetensors' own limit."""


class ShelfEntry(msgspec.Struct, frozen=True):
    """One registered tensor, as the listener describes it to an executor. ``spec`` is None while it is locked."""

    tags: tuple[str, ...]
    path: str
    tensor: str
    spec: TensorSpec | None
    unsafe_interactive: bool
    locked: str = ""
    """Why it cannot be opened yet, for a caller to read."""
    key: bytes | None = None
    """Of a sealed file, once it is there."""

    def __repr__(self) -> str:
        return f"<ShelfEntry {', '.join(self.tags)}>"  # no key in a log


class Located(NamedTuple):
    """A tensor in a file: what it is, and at which byte its values start, where they lie there as they are."""

    spec: TensorSpec
    start: int | None


def shelve(data_set: DataSet, *, key: bytes | None = None) -> ShelfEntry:
    """A data set as executors are told of it; a sealed one is locked without its ``key``.

    Raises:
        ConfigurationError: as ``inspect``.
    """
    locked = data_set.key is not None and key is None
    if locked:
        _check_sealed(data_set.path)
    return ShelfEntry(
        tags=data_set.tags,
        path=str(data_set.path),
        tensor=data_set.tensor,
        spec=None if locked else inspect(data_set, key=key),
        unsafe_interactive=data_set.unsafe_interactive,
        locked="its key has not been provisioned yet; once it is, connect again for a new session" if locked else "",
        # No session gets the key of a data set that it may not see.
        key=key if data_set.unsafe_interactive else None,
    )


def unlock(entries: Sequence[ShelfEntry], *, data_sets: Sequence[DataSet], secrets: Secrets) -> tuple[ShelfEntry, ...]:
    """The entries of ``data_sets``, unlocked as far as their keys have come. One whose key does not open its file says
    so to whoever looks for it."""
    return tuple(_unlock(entry, data_set, secrets) for entry, data_set in zip(entries, data_sets, strict=True))


def _unlock(entry: ShelfEntry, data_set: DataSet, secrets: Secrets) -> ShelfEntry:
    if entry.spec is not None or data_set.key is None:
        return entry
    key = secrets.take(data_set.key.name, sender=data_set.key.sender)
    if key is None:
        return entry
    try:
        return shelve(data_set, key=key)
    except ConfigurationError as fault:
        _log.error("data set %s: %s", ", ".join(data_set.tags), fault)
        return msgspec.structs.replace(entry, locked="the key that was provisioned for it does not open its file")


def open_data(path: Path, *, key: bytes | None = None) -> IO[bytes]:
    """The file of a data set, unsealed with ``key`` where there is one.

    Raises:
        ConfigurationError: it does not open with this key. OSError: it cannot be read.
    """
    return path.open("rb") if key is None else cast(IO[bytes], open_sealed(path, key=key))


def format_of(path: Path) -> str:
    """``.npz`` or ``.safetensors``, also of a file that is sealed."""
    return Path(path.stem).suffix if path.suffix == SEALED else path.suffix


def inspect(data_set: DataSet, *, key: bytes | None = None) -> TensorSpec:
    """Element type and shape of a data set's tensor, from its file's headers.

    Raises:
        ConfigurationError: the file cannot be read, does not hold the tensor, or holds it in a form that cannot be
        used.
            The message names file and tensor.
    """
    path = data_set.path
    if format_of(path) not in _READERS or (path.suffix == SEALED) != (key is not None):
        raise ConfigurationError(f"{path}: a data set is an .npz or a .safetensors file, and sealed where it has a key")
    try:
        with open_data(path, key=key) as file:
            spec = locate(file, path=path, tensor=data_set.tensor).spec
        spec.nbytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except OSError as fault:
        raise ConfigurationError(f"{path}: {fault.strerror or 'it cannot be read'}") from None
    except WireError as fault:
        raise ConfigurationError(f"{path}, tensor {data_set.tensor!r}: {fault}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as fault:
        # What zipfile raises for damaged, encrypted or exotic archives; a UnicodeDecodeError is a ValueError.
        if isinstance(fault, ConfigurationError):
            raise
        raise ConfigurationError(f"{path} is damaged or not a {format_of(path)} file: {fault}") from None
    if len(spec.shape) > DIMENSIONS:
        raise ConfigurationError(f"{path}, tensor {data_set.tensor!r}: more than {DIMENSIONS} dimensions")
    return spec


def locate(file: IO[bytes], *, path: Path, tensor: str) -> Located:
    """A tensor in an open file. ``path`` tells the format.

    Raises:
        ConfigurationError, WireError, OSError and what ``zipfile`` raises: the file is damaged or does not hold it.
    """
    return _READERS[format_of(path)](file, path, tensor)


def _check_sealed(path: Path) -> None:
    try:
        check_header(path)
    except OSError as fault:
        raise ConfigurationError(f"{path}: {fault.strerror or 'it cannot be read'}") from None


def _missing(path: Path, tensor: str, present: list[str]) -> ConfigurationError:
    listed = ", ".join(sorted(present)[:20]) or "nothing"
    return ConfigurationError(f"{path} holds no tensor {tensor!r}; it holds {listed}")


def _read_npz(file: IO[bytes], path: Path, tensor: str) -> Located:
    with zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if tensor not in names:
            raise _missing(path, tensor, names)
        with archive.open(f"{tensor}.npy") as array:
            header = _npy_header(array)
    descr = re.search(r"'descr': '([^']*)'", header)
    shape = re.search(r"'shape': \(([\d, ]*)\)", header)
    if descr is None or shape is None:
        raise ConfigurationError(
            f"{path}, tensor {tensor!r}: records of several fields cannot be used, only plain arrays"
        )
    order, kind = descr[1][:1], descr[1][1:]
    if kind.startswith("O"):
        raise ConfigurationError(f"{path}, tensor {tensor!r}: an array of Python objects is never loaded; save numbers")
    if order == ">" or kind not in _NUMPY_TYPES:
        raise ConfigurationError(
            f"{path}, tensor {tensor!r}: element type {descr[1]!r} cannot be used; convert it, for instance to float32"
        )
    return Located(TensorSpec(_NUMPY_TYPES[kind], tuple(int(size) for size in re.findall(r"\d+", shape[1]))), None)


def _npy_header(file: IO[bytes]) -> str:
    start = file.read(8)
    if len(start) != 8 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise ValueError("an array in it does not start with a .npy header")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _HEADER_BYTES:
        raise ValueError("an array in it claims an absurd header")
    header = file.read(length)
    if len(header) != length:
        raise ValueError("an array in it ends within its header")
    return header.decode("utf-8" if start[6] == 3 else "latin-1")


def _read_safetensors(file: IO[bytes], path: Path, tensor: str) -> Located:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_HEADER_BYTES, size - 8):
        raise ValueError("its header's length is wrong")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    entry = header.get(tensor)
    if tensor == "__metadata__" or entry is None:
        raise _missing(path, tensor, [name for name in header if name != "__metadata__"])
    dtype, shape, (start, end) = _safetensors_entry(entry)
    if dtype not in _SAFETENSORS_TYPES:
        raise ConfigurationError(
            f"{path}, tensor {tensor!r}: element type {dtype!r} cannot be used; convert it, for instance to F32"
        )
    spec = TensorSpec(_SAFETENSORS_TYPES[dtype], shape)
    if not 0 <= start <= end <= size - 8 - length or end - start != spec.nbytes():
        raise ConfigurationError(f"{path}, tensor {tensor!r}: the file does not hold all of its values")
    return Located(spec, 8 + length + start)


def _safetensors_entry(entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            if all(type(dimension) is int and dimension >= 0 for dimension in shape):
                return dtype, tuple(shape), (start, end)
    raise ValueError("its header describes a tensor wrongly")


_READERS: Final[dict[str, Callable[[IO[bytes], Path, str], Located]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}
