"""Arrays in ``.npz`` archives, which are zip files, read without believing them (PKWARE APPNOTE.TXT).

``zipfile`` reads as much at once as an archive claims: a directory of a gigabyte, from a file that takes a few bytes
of a disk. And it unpacks a piece of bzip2 or LZMA all at once, of which 300 bytes can be 200 MB. So it is given the
file in pieces of a bounded size, and is asked only for arrays as NumPy writes them: as they are, or deflated.

No PyTorch is imported here, as in ``headers``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, NamedTuple, cast

from cloister.wire.limits import CHUNK_BYTES
from cloister.worker.data.headers import Stored, missing, read_npy

DIRECTORY_BYTES: Final = CHUNK_BYTES
"""The most that is read at once, and so the longest directory of an archive: one of some ten thousand arrays."""


class Member(NamedTuple):
    """One array of an archive: what its header says, how long the archive says it is, and the stream at its first
    value."""

    stored: Stored
    size: int
    stream: IO[bytes]


@contextmanager
def open_array(file: IO[bytes], name: str) -> Iterator[Member]:
    """The array ``name`` in the archive that ``file`` is.

    Raises:
        DataSetError: the archive holds no such array, or one that cannot be used.
        ValueError, WireError, and what ``zipfile`` raises: it is damaged.
    """
    with zipfile.ZipFile(cast(IO[bytes], _Pieces(file))) as archive:
        names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        if name not in names:
            raise missing(name, names)
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in a way that NumPy does not write")
        with archive.open(member) as stream:
            yield Member(read_npy(stream), member.file_size, stream)


class _Pieces:
    """A file of which no more than ``DIRECTORY_BYTES`` can be read at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(DIRECTORY_BYTES + 1 if size < 0 else size) if size <= DIRECTORY_BYTES else b""
        if max(size, len(data)) > DIRECTORY_BYTES:
            raise ValueError(f"it claims a directory or a name of more than {DIRECTORY_BYTES} bytes")
        return data
