"""What is in a data set's file, read from its headers alone: no values are loaded, no NumPy or torch imported.

Formats: ``.npz``, a zip of ``.npy`` files, and ``.safetensors``; ``cloister.worker.data.headers`` reads their headers.
Either may be sealed (``cloister.node.sealed_file``): without its key nothing is known of such a file, and the data set
stays locked until the key is there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

import msgspec

from cloister.errors import ConfigurationError, DataSetError, WireError
from cloister.files import open_regular
from cloister.net.secrets import Secrets
from cloister.node.config import SEALED, DataSet, StudyData
from cloister.node.sealed_file import check_header, open_sealed
from cloister.wire.limits import DIMENSIONS
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.archives import open_array
from cloister.worker.data.errors import DAMAGED
from cloister.worker.data.headers import read_npy, read_safetensors

_log: Final = logging.getLogger(__name__)


class DataSetEntry(msgspec.Struct, frozen=True):
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
        return f"<DataSetEntry {', '.join(self.tags)}>"  # no key in a log


class Located(NamedTuple):
    """A tensor in a file: what it is, and at which byte its values start, where they lie there as they are."""

    spec: TensorSpec
    start: int | None


def entry_of(data_set: DataSet, *, key: bytes | None = None) -> DataSetEntry:
    """A data set as executors are told of it; a sealed one is locked without its ``key``.

    Raises:
        ConfigurationError: as ``inspect``.
    """
    locked = data_set.key is not None and key is None
    if locked:
        _check_sealed(data_set.path)
    return DataSetEntry(
        tags=data_set.tags,
        path=str(data_set.path),
        tensor=data_set.tensor,
        spec=None if locked else inspect(data_set, key=key),
        unsafe_interactive=data_set.unsafe_interactive,
        locked="its key has not been provisioned yet; once it is, connect again for a new session" if locked else "",
        # No session gets the key of a data set that it may not see.
        key=key if data_set.unsafe_interactive else None,
    )


def unlock(
    entries: Sequence[DataSetEntry], *, data_sets: Sequence[DataSet], secrets: Secrets
) -> tuple[DataSetEntry, ...]:
    """The entries of ``data_sets``, unlocked as far as their keys have come. One whose key does not open its file says
    so to whoever looks for it."""
    return tuple(_unlock(entry, data_set, secrets) for entry, data_set in zip(entries, data_sets, strict=True))


def _unlock(entry: DataSetEntry, data_set: DataSet, secrets: Secrets) -> DataSetEntry:
    if entry.spec is not None or data_set.key is None:
        return entry
    key = secrets.take(data_set.key.name, sender=data_set.key.sender)
    if key is None:
        return entry
    try:
        return entry_of(data_set, key=key)
    except ConfigurationError as fault:
        _log.error("data set %s: %s", ", ".join(data_set.tags), fault)
        return msgspec.structs.replace(entry, locked="the key that was provisioned for it does not open its file")


def open_data(path: Path, *, key: bytes | None = None) -> IO[bytes]:
    """The file of a data set, unsealed with ``key`` where there is one.

    Raises:
        ConfigurationError: it does not open with this key. OSError: it cannot be read.
    """
    return open_regular(path) if key is None else cast(IO[bytes], open_sealed(path, key=key))


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
    if format_of(path) not in (".npz", ".safetensors") or (path.suffix == SEALED) != (key is not None):
        raise ConfigurationError(f"{path}: a data set is an .npz or a .safetensors file, and sealed where it has a key")
    return _inspect(path, data_set.tensor, key=key)


def _inspect(path: Path, tensor: str, *, key: bytes | None = None) -> TensorSpec:
    try:
        with open_data(path, key=key) as file:
            spec = locate(file, path=path, tensor=tensor).spec
        spec.nbytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except OSError as fault:
        raise ConfigurationError(f"{path}: {fault.strerror or 'it cannot be read'}") from None
    except WireError as fault:
        raise ConfigurationError(f"{path}, tensor {tensor!r}: {fault}") from None
    except DAMAGED as fault:
        if isinstance(fault, ConfigurationError):
            raise
        raise ConfigurationError(
            f"{path} is damaged or not a {format_of(path)} file: {fault}; write it anew, or name another"
        ) from None
    if len(spec.shape) > DIMENSIONS:
        raise ConfigurationError(f"{path}, tensor {tensor!r}: more than {DIMENSIONS} dimensions")
    return spec


def inspect_columns(data: StudyData) -> tuple[TensorSpec | None, ...]:
    """Element type and shape of each column of a data set for studies, from the file's headers; None for each of a
    Parquet file, which takes a package to read.

    Raises:
        ConfigurationError: as ``inspect``, or the columns differ in their number of rows.
    """
    if data.path.suffix == ".parquet":
        if not data.path.exists():
            raise ConfigurationError(f"{data.path}: there is no such file")
        if not data.path.is_file():
            raise ConfigurationError(f"{data.path}: it is no regular file, and nothing else is read")
        return (None,) * len(data.columns)
    if data.path.suffix == ".npy" and len(data.columns) != 1:
        raise ConfigurationError(f"{data.path}: an .npy file is one column, and {len(data.columns)} are named")
    found = tuple(_inspect(data.path, column) for column in data.columns)
    if any(not spec.shape for spec in found) or len({spec.shape[0] for spec in found}) > 1:
        raise ConfigurationError(f"{data.path}: the columns have different numbers of rows, or one has none")
    return found


def locate(file: IO[bytes], *, path: Path, tensor: str) -> Located:
    """A tensor in an open file. ``path`` tells the format.

    Raises:
        ConfigurationError, WireError, OSError and what ``zipfile`` raises: the file is damaged or does not hold it.
    """
    try:
        return _READERS[format_of(path)](file, tensor)
    except DataSetError as fault:
        raise DataSetError(f"{path}, tensor {tensor!r}: {fault}") from None


def _check_sealed(path: Path) -> None:
    try:
        check_header(path)
    except OSError as fault:
        raise ConfigurationError(f"{path}: {fault.strerror or 'it cannot be read'}") from None


def _read_npz(file: IO[bytes], tensor: str) -> Located:
    with open_array(file, tensor) as array:
        return Located(array.stored.spec, None)


def _read_safetensors(file: IO[bytes], tensor: str) -> Located:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    stored = read_safetensors(file, tensor=tensor, size=size)
    return Located(stored.spec, stored.start)


def _read_npy(file: IO[bytes], tensor: str) -> Located:
    stored = read_npy(file)
    return Located(stored.spec, stored.start)


_READERS: Final[dict[str, Callable[[IO[bytes], str], Located]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
}
