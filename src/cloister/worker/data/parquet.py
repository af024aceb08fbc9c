"""Parquet files, a window of row groups at a time.

A row group is the smallest part of a Parquet file that can be read by itself, so rows cannot be drawn from all over the
file. The order of an epoch is this instead:

1. The row groups are taken in a random order.
2. In that order they are gathered into windows: as many as fit into ``window_bytes``, and at least one.
3. Within a window, the rows are in a random order; what does not fill a batch goes into the first of the next window.

Memory holds one window. Rows of one row group stay within a window of each other: where a file is sorted, say by
hospital or by date, either shuffle it once when it is written, or make its row groups small.

A column is of numbers, of booleans, or of fixed-size lists of them (also nested, also Arrow's fixed-shape tensors), and
has no nulls. Nulls are found when they are read: a file's statistics would tell of them before, but where its metadata
is damaged, asking pyarrow for them ends the process.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cloister.errors import DataSetError, MissingDependencyError, meant
from cloister.files import open_regular
from cloister.wire.limits import DIMENSIONS, SIZE
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.batches import RowNumbers, check_batch_size, generator
from cloister.worker.data.errors import reading
from cloister.worker.data.pages import METADATA_BYTES, check_pages, read_metadata
from cloister.worker.data.schema import Column
from cloister.worker.data.thrift import ITEMS

if TYPE_CHECKING:
    import pyarrow

WINDOW_BYTES: Final = 128 << 20
"""What a window's values may take in memory."""

_READ_BYTES: Final = 4 << 20
"""Values decoded at a time."""
_TYPES: Final = {
    "bool": "bool",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
    "halffloat": "float16",
    "float": "float32",
    "double": "float64",
}


class RowGroups:
    """A data set in one Parquet file. Implements ``Batches``.

    ``columns``: the names of the columns here, and in the file. ``memory_bytes``: a row group of more is refused.

    Raises:
        DataSetError: the file is damaged, or a column is missing or of a type that cannot be trained on.
        OSError: it cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(
        self, path: Path, *, columns: Mapping[str, str], window_bytes: int = WINDOW_BYTES, memory_bytes: int = SIZE
    ) -> None:
        arrow = _arrow()
        self._window_bytes = window_bytes
        self._names = list(columns.values())
        self._path = path
        with _reading(path):
            self._bytes = open_regular(path)
            weakref.finalize(self, self._bytes.close)
            self._groups = read_metadata(self._bytes)
            self._file = arrow.parquet.ParquetFile(
                self._bytes,
                buffer_size=_READ_BYTES,
                pre_buffer=False,
                thrift_string_size_limit=METADATA_BYTES,
                thrift_container_size_limit=ITEMS,
            )
            fields = self._file.schema_arrow
            self.schema = tuple(Column(name, _row(there, fields)) for name, there in columns.items())
            self._rows = [group.rows for group in self._groups]
            self._leaves = {name: _leaves(self._file.schema, there) for name, there in columns.items()}
        self._page_bytes = min(WINDOW_BYTES, memory_bytes)
        self._row_bytes = sum(column.row.nbytes() for column in self.schema)
        self._check_sizes(memory_bytes)
        self._read_once = False

    def __len__(self) -> int:
        return sum(self._rows)

    def epoch(
        self, batch_size: int, *, seed: int, step: int, chosen: RowNumbers | None = None
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """See ``Batches.epoch``; the order is told at the top of this module. What is not chosen is read, and left."""
        check_batch_size(batch_size)
        return self._deal(batch_size, self._mixed(generator(seed=seed, step=step), chosen))

    def picked(self, rows: RowNumbers, *, batch_size: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """See ``Batches.picked``. Row groups are read whole, and those that none of the rows is in are not; but all of
        them are once, before: what cannot be read is an error whichever rows are picked, and tells of none of them."""
        check_batch_size(batch_size)
        if not self._read_once:
            for group in range(len(self._rows)):
                self._read([group])
            self._read_once = True
        return self._deal(batch_size, self._ascending(rows))

    def _mixed(self, chance: np.random.Generator, chosen: RowNumbers | None) -> Iterator[tuple[list[int], RowNumbers]]:
        """The windows of an epoch, each with the places, in it, of the rows to take."""
        for groups in self._windows(chance.permutation(len(self._rows))):
            order = chance.permutation(sum(self._rows[group] for group in groups))
            if chosen is not None:
                order = order[np.isin(self._numbers_of(groups)[order], chosen, assume_unique=True)]
            yield groups, order

    def _ascending(self, rows: RowNumbers) -> Iterator[tuple[list[int], RowNumbers]]:
        """The same for these rows in the order of the file."""
        ends = np.cumsum(self._rows)
        for groups in self._windows(np.unique(np.searchsorted(ends, rows, side="right"))):
            yield groups, np.flatnonzero(np.isin(self._numbers_of(groups), rows, assume_unique=True))

    def _deal(
        self, batch_size: int, windows: Iterator[tuple[list[int], RowNumbers]]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        kept: list[NDArray[Any]] = []  # of windows before: fewer rows than a batch
        for groups, order in windows:
            values, start = self._read(groups), 0
            if kept:
                start = batch_size - len(kept[0])
                kept = [np.concatenate((old, new[order[:start]])) for old, new in zip(kept, values, strict=True)]
                if len(kept[0]) == batch_size:
                    yield _tensors(kept)
                    kept = []
            while len(order) - start >= batch_size:
                yield _tensors([column[order[start : start + batch_size]] for column in values])
                start += batch_size
            if start < len(order):
                kept = [column[order[start:]] for column in values]
            del values  # before the next window is read, not after
        if kept:
            yield _tensors(kept)

    def _numbers_of(self, groups: Sequence[int]) -> RowNumbers:
        """The numbers, in the file, of the rows of these row groups."""
        firsts = np.cumsum([0, *self._rows])
        return np.concatenate([np.arange(firsts[group], firsts[group + 1]) for group in groups])

    def _windows(self, order: NDArray[np.int64]) -> Iterator[list[int]]:
        window: list[int] = []
        rows = 0
        for group in order.tolist():
            if window and (rows + self._rows[group]) * self._row_bytes > self._window_bytes:
                yield window
                window, rows = [], 0
            window.append(group)
            rows += self._rows[group]
        if window:
            yield window

    def _read(self, groups: Sequence[int]) -> list[NDArray[Any]]:
        rows = sum(self._rows[group] for group in groups)
        filled = 0
        with _reading(self._path):
            for group in groups:
                self._check_pages(group)
            values = [np.empty((rows, *column.row.shape), column.row.dtype) for column in self.schema]
            pieces = self._file.iter_batches(
                batch_size=max(1, _READ_BYTES // self._row_bytes),
                row_groups=groups,
                columns=self._names,
                use_threads=False,
            )
            for piece in pieces:
                if filled + piece.num_rows > rows:
                    raise ValueError("its row groups hold more rows than its metadata says")
                for column, name, into in zip(self.schema, self._names, values, strict=True):
                    found = _numbers(piece.column(name), name)
                    into[filled : filled + piece.num_rows] = found.reshape(piece.num_rows, *column.row.shape)
                filled += piece.num_rows
            if filled != rows:
                raise ValueError("its row groups hold fewer rows than its metadata says")
        return values

    def _check_pages(self, group: int) -> None:
        """What the pages of a row group claim, each time before they are read."""
        rows, chunks = self._groups[group]
        for column in self.schema:
            for leaf in self._leaves[column.name]:
                if leaf >= len(chunks):
                    raise ValueError("a row group of it lacks columns")
                check_pages(self._bytes, chunks[leaf], values=rows * column.row.count(), page_bytes=self._page_bytes)

    def _check_sizes(self, memory_bytes: int) -> None:
        if any(not 0 <= rows <= SIZE for rows in self._rows) or not self._row_bytes:
            raise DataSetError(f"{self._path}: the file is damaged: it claims impossible numbers of rows")
        if not sum(self._rows):
            raise DataSetError(f"{self._path}: the data set has no rows")
        largest = max(self._rows) * self._row_bytes
        if largest > memory_bytes:
            raise DataSetError(
                f"{self._path}: a row group of it takes {largest} bytes of memory, and {memory_bytes} are allowed; "
                "write it with smaller row groups (row_group_size in pyarrow and pandas)"
            )


def _leaves(schema: Any, name: str) -> list[int]:
    """The numbers of the file's columns that a column is made of."""
    paths = [schema.column(at).path for at in range(len(schema))]
    return [at for at, path in enumerate(paths) if path == name or path.startswith(f"{name}.")]


def _row(name: str, fields: pyarrow.Schema) -> TensorSpec:
    """What a row of the file's column ``name`` is."""
    import pyarrow

    found = fields.get_all_field_indices(name)
    if len(found) != 1:
        listed = ", ".join(sorted(fields.names)[:20]) or "nothing"
        count, likely = (f"{len(found)} columns", "") if found else ("no column", meant(name, fields.names))
        raise DataSetError(f"the file holds {count} {name!r}; it holds {listed}{likely}")
    kind, shape = fields.field(found[0]).type, []
    while pyarrow.types.is_fixed_size_list(kind) or isinstance(kind, pyarrow.FixedShapeTensorType):
        if not isinstance(kind, pyarrow.FixedShapeTensorType):
            shape.append(kind.list_size)
        elif kind.permutation in (None, list(range(len(kind.shape)))):
            shape += kind.shape
        else:
            break  # its dimensions are stored in another order than they are meant
        kind = kind.value_type
    if str(kind) not in _TYPES or len(shape) > DIMENSIONS:
        hint = "write it as numbers, or leave it out"
        if pyarrow.types.is_list(kind):
            hint = "write it as a fixed-size list, pyarrow.list_(type, size)"
        raise DataSetError(f"column {name!r} holds {fields.field(found[0]).type}, which cannot be trained on; {hint}")
    return TensorSpec(_TYPES[str(kind)], tuple(shape))


def _numbers(array: pyarrow.Array, column: str) -> NDArray[Any]:
    """The numbers of a column, row after row, without the structure around them."""
    import pyarrow

    while True:
        if array.null_count:
            raise _nulls(column)
        if isinstance(array, pyarrow.ExtensionArray):
            array = array.storage
        elif isinstance(array, pyarrow.FixedSizeListArray):
            array = array.flatten()
        else:
            numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
            return numbers


def _tensors(columns: Sequence[NDArray[Any]]) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.from_numpy, columns))


def _nulls(column: str) -> DataSetError:
    return DataSetError(f"column {column!r} holds nulls; fill them or leave those rows out")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    arrow = _arrow()
    with reading(path):
        try:
            yield
        except (MemoryError, OSError):
            raise
        except (arrow.ArrowException, TypeError) as fault:
            raise ValueError(str(fault)) from None


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "reading Parquet needs pyarrow, which is not installed: pip install 'cloister[parquet]'"
        ) from None
    return pyarrow
