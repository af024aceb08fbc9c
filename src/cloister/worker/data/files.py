"""Data sets from files: ``.npy`` and ``.safetensors`` are mapped, ``.npz`` is read into memory, Parquet by row groups.

What is mapped may be far larger than memory: pages are read as their rows come up, and the system takes them back when
it needs room.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
import torch

from cloister.errors import DataSetError
from cloister.files import opened
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.archives import open_array
from cloister.worker.data.batches import Batches
from cloister.worker.data.errors import reading
from cloister.worker.data.headers import Stored, read_npy, read_safetensors
from cloister.worker.data.parquet import WINDOW_BYTES, RowGroups
from cloister.worker.data.rows import Arrays, MappedRows, Rows
from cloister.worker.values import as_bytes

MEMORY_BYTES: Final = 4 << 30
"""What may be read into memory where nothing else is said: the values of ``.npz`` arrays, a window of row groups."""

ROWS: Final = 1 << 29
"""The most rows of a data set that is mapped: an epoch's order takes 8 bytes of memory for each."""


class Source(NamedTuple):
    """Where a column is: a file, and the array or column in it (a ``.npy`` file holds one, without a name)."""

    path: Path
    tensor: str = ""


def open_file(path: Path, *, columns: Sequence[str], memory_bytes: int = MEMORY_BYTES) -> Batches:
    """A data set whose columns are all in one file, by their names there; see ``open_columns``."""
    return open_columns({name: Source(path, name) for name in columns}, memory_bytes=memory_bytes)


def open_columns(sources: Mapping[str, Source], *, memory_bytes: int = MEMORY_BYTES) -> Batches:
    """A data set of these columns, in their order. Headers are read and checked here; values, except those of ``.npz``
    files, when their rows come up.

    Columns may come from several files, but for Parquet: there, all from one. ``memory_bytes`` bounds what is read into
    memory.

    Raises:
        DataSetError: a file that cannot be read, is damaged, does not hold the column, or holds it in a form that
            cannot be trained on; no rows, or columns of different lengths. The message names file and column.
        MissingDependencyError: Parquet, and pyarrow is not installed.
    """
    if not sources:
        raise DataSetError("a data set has at least one column")
    if any(source.path.suffix == ".parquet" for source in sources.values()):
        path = next(iter(sources.values())).path
        if any(source.path != path for source in sources.values()):
            raise DataSetError(f"{path}: the columns of a data set in Parquet all come from one file")
        return RowGroups(
            path,
            columns={name: source.tensor for name, source in sources.items()},
            window_bytes=min(WINDOW_BYTES, memory_bytes),
            memory_bytes=memory_bytes,
        )
    columns: dict[str, torch.Tensor | Rows] = {}
    for name, (path, tensor) in sources.items():
        with reading(path, tensor):
            columns[name] = column = _open(path, tensor, memory_bytes)
            if isinstance(column, torch.Tensor):
                memory_bytes -= column.nbytes
    found = Arrays(columns)
    if len(found) > ROWS:  # a file with holes has as many as it says
        raise DataSetError(f"it has {len(found)} rows, and {ROWS} can be put in order; split the data set")
    return found


def _open(path: Path, tensor: str, memory_bytes: int) -> torch.Tensor | Rows:
    with opened(path) as file:
        match path.suffix:
            case ".npz":
                with open_array(file, tensor) as array:
                    _check_rows(array.stored.spec)
                return load_npz(file, tensor, memory_bytes=memory_bytes)
            case ".npy":
                return _map(file, read_npy(file))
            case ".safetensors":
                return _map(file, read_safetensors(file, tensor=tensor, size=os.fstat(file.fileno()).st_size))
    raise DataSetError("a data set is an .npz, .npy, .safetensors or .parquet file")


def _map(file: IO[bytes], stored: Stored) -> MappedRows:
    spec, start, by_columns = stored
    _check_rows(spec)
    if by_columns:
        raise DataSetError("it is stored by columns, so that a row lies all over the file; save it with order='C'")
    if start + spec.nbytes() > os.fstat(file.fileno()).st_size:
        raise ValueError("it does not hold all of its values")
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # lives as long as the array that is made of it
    values = np.frombuffer(mapping, np.uint8, count=spec.nbytes(), offset=start)
    return MappedRows(values.reshape(spec.shape[0], -1), row=TensorSpec(spec.dtype, spec.shape[1:]))


def load_npz(file: IO[bytes], name: str, *, memory_bytes: int) -> torch.Tensor:
    """An array of an ``.npz`` archive, read into memory.

    Raises:
        DataSetError: there is none of that name, it cannot be used, or it takes more than ``memory_bytes``.
        ValueError, WireError, and what ``zipfile`` raises: the archive is damaged. MemoryError.
    """
    with open_array(file, name) as (stored, size, stream):
        spec, start, by_columns = stored
        if size != start + spec.nbytes():
            raise ValueError("its size is not that of its values")
        if spec.nbytes() > memory_bytes:
            raise DataSetError(
                f"{spec} takes {spec.nbytes()} bytes of memory, and {memory_bytes} are allowed; "
                "save it as .npy or .safetensors, which are not read into memory"
            )
        # NumPy's, because that says so with a MemoryError where there is not enough.
        values = torch.from_numpy(np.empty(spec.shape[::-1] if by_columns else spec.shape, spec.dtype))
        _fill(values, stream)
    if values.dtype == torch.bool:
        values.view(torch.uint8).clamp_(max=1)  # any byte is a bool to PyTorch, and only 0 and 1 are defined
    return values.permute(*range(values.ndim)[::-1]) if by_columns else values


def _fill(tensor: torch.Tensor, stream: IO[bytes]) -> None:
    view = as_bytes(tensor)
    for start in range(0, len(view), CHUNK_BYTES):
        wanted = view[start : start + CHUNK_BYTES]
        data = stream.read(len(wanted))
        if len(data) != len(wanted):
            raise ValueError("it ends within its values")
        wanted[:] = data
    if stream.read(1):  # and this is where zipfile compares checksums
        raise ValueError("it goes on after its values")


def _check_rows(spec: TensorSpec) -> None:
    if not spec.shape or not spec.count():
        raise DataSetError(f"{spec} has no rows to train on, or nothing in them")
