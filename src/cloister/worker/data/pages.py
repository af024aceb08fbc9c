"""What a Parquet file claims of its columns and pages, looked at before pyarrow reads them: it believes every word.

A page's header says how long the page is once it is unpacked, and how many values are in it; a few bytes of either can
be gigabytes. The file's metadata says where the pages are, and where that is damaged pyarrow ends the process that asks
for it. So both are read here, as far as that needs (https://github.com/apache/parquet-format, parquet.thrift).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from cloister.errors import DataSetError
from cloister.worker.data.thrift import I32, I64, LIST, STRUCT, Reader

METADATA_BYTES: Final = 4 << 20
"""The longest metadata that is read: it has about 150 bytes for each column of each row group."""

_HEADER_BYTES: Final = 1 << 14
"""The longest header of a page."""
_MAGIC: Final = b"PAR1"

# Numbers of fields.
_ROW_GROUPS: Final = 4  # of FileMetaData
_COLUMNS, _ROWS = 1, 3  # of RowGroup
_METADATA: Final = 3  # of ColumnChunk
_VALUES, _SIZE, _DATA, _DICTIONARY = 5, 7, 9, 11  # of ColumnMetaData
_UNPACKED, _PACKED, _FIRST_VERSION, _SECOND_VERSION = 2, 3, 5, 8  # of PageHeader
_COUNT: Final = 1  # of DataPageHeader and DataPageHeaderV2


class Chunk(NamedTuple):
    """The pages of one column in a row group: where they start, how many bytes and how many values they have."""

    start: int
    size: int
    values: int


class RowGroup(NamedTuple):
    """A row group: how many rows it has, and its columns in the order of the file's."""

    rows: int
    chunks: tuple[Chunk, ...]


def read_metadata(file: IO[bytes]) -> list[RowGroup]:
    """The row groups of a Parquet file.

    Raises:
        DataSetError: there are too many. ValueError: it is no Parquet file, or damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != _MAGIC or length > size - 8:
        raise ValueError("it does not end as a Parquet file does")
    if length > METADATA_BYTES:
        raise DataSetError(
            f"its metadata has {length} bytes, and {METADATA_BYTES} are read at most; write it with larger row groups,"
            " or without the columns that are not trained on"
        )
    file.seek(size - 8 - length)
    reader = Reader(file.read(length))
    groups: list[RowGroup] = []
    for number, kind in reader.fields():
        if number == _ROW_GROUPS and kind == LIST:
            groups = [_row_group(reader) for _ in _structures(reader)]
        else:
            reader.skip(kind)
    return groups


def check_pages(file: IO[bytes], chunk: Chunk, *, values: int, page_bytes: int) -> None:
    """Looks at the headers of all pages of a column in a row group, in which at most ``values`` values are expected.

    Raises:
        ValueError: a page of more than ``page_bytes`` bytes, packed or unpacked; other values than the metadata says,
            or more than expected; more pages than values; or something that is no header of a page.
    """
    at, end = chunk.start, chunk.start + chunk.size
    if not 0 <= at <= end <= os.fstat(file.fileno()).st_size:
        raise ValueError("its metadata names a place outside of it")
    found = pages = 0
    while at < end:
        header = Reader(os.pread(file.fileno(), min(_HEADER_BYTES, end - at), at))
        unpacked, packed, count = _page(header)
        if min(unpacked, packed, count) < 0:
            raise ValueError("a page of it has no length")
        if max(unpacked, packed) > page_bytes:
            raise ValueError(f"a page of it has {max(unpacked, packed)} bytes, and {page_bytes} are allowed")
        found, pages, at = found + count, pages + 1, at + header.at + packed
        if pages > values + 1:  # one is the dictionary's
            break
    if found != chunk.values or found > values or at != end:
        raise ValueError("its pages hold other values than its metadata says")


def _structures(reader: Reader) -> Iterator[int]:
    count, kind = reader.items()
    if count and kind != STRUCT:
        raise ValueError("its metadata lists something else than columns and row groups")
    yield from range(count)


def _row_group(reader: Reader) -> RowGroup:
    rows = -1
    chunks: tuple[Chunk, ...] = ()
    for number, kind in reader.fields():
        if number == _COLUMNS and kind == LIST:
            chunks = tuple(_chunk(reader) for _ in _structures(reader))
        elif number == _ROWS and kind == I64:
            rows = reader.integer()
        else:
            reader.skip(kind)
    return RowGroup(rows, chunks)


def _chunk(reader: Reader) -> Chunk:
    found: Chunk | None = None
    for number, kind in reader.fields():
        if number == _METADATA and kind == STRUCT:
            told = _integers(reader, I64, (_VALUES, _SIZE, _DATA, _DICTIONARY))
            start = told.get(_DATA, -1)
            if 0 < told.get(_DICTIONARY, 0) < start:
                start = told[_DICTIONARY]
            found = Chunk(start, told.get(_SIZE, -1), told.get(_VALUES, -1))
        else:
            reader.skip(kind)
    if found is None:  # pyarrow would take it, and a hundred times its memory
        raise ValueError("its metadata says nothing of a column")
    return found


def _page(reader: Reader) -> tuple[int, int, int]:
    """How many bytes a page has, unpacked and packed, and how many values."""
    sizes = {_UNPACKED: -1, _PACKED: -1}
    count = 0
    for number, kind in reader.fields():
        if number in sizes and kind == I32:
            sizes[number] = reader.integer()
        elif number in (_FIRST_VERSION, _SECOND_VERSION) and kind == STRUCT:
            count = _integers(reader, I32, (_COUNT,)).get(_COUNT, -1)
        else:
            reader.skip(kind)
    return sizes[_UNPACKED], sizes[_PACKED], count


def _integers(reader: Reader, of: int, wanted: tuple[int, ...]) -> dict[int, int]:
    """Some fields of a structure, which are integers of the type ``of``; what is of another one, pyarrow passes over
    too."""
    found: dict[int, int] = {}
    for number, kind in reader.fields():
        if number in wanted and kind == of:
            found[number] = reader.integer()
        else:
            reader.skip(kind)
    return found
