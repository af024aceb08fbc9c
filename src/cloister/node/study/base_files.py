"""The files of base models that a node has, by their digests."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cloister.charter import Charter
from cloister.charter.names import shown
from cloister.errors import ConfigurationError, DataSetError
from cloister.files import identity_of, open_regular
from cloister.node.config import BaseFile

_log: Final = logging.getLogger(__name__)


class Mapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that a child process is to map: its digest, where it is, and what it was when the digest was taken."""

    digest: bytes
    path: str
    identity: tuple[int, int, int, int]


class _Read(NamedTuple):
    identity: tuple[int, int, int, int]
    digest: bytes


class BaseFiles:
    """The files under ``[[models]]``. Each is read whole once, and again only when it has changed."""

    def __init__(self, files: Iterable[BaseFile]) -> None:
        self._paths: Sequence[Path] = tuple(each.path for each in files)
        self._read: dict[Path, _Read] = {}

    def digests(self) -> dict[Path, bytes]:
        """SHA-256 of each file, 32 bytes.

        Raises:
            ConfigurationError: one cannot be read.
        """
        return {path: self._look(path).digest for path in self._paths}

    def missing(self, charter: Charter) -> Iterator[str]:
        """A sentence for each base of a charter of which files are not here; those that are here are read for it.

        Raises:
            ConfigurationError: as ``digests``.
        """
        here = set(self.digests().values()) if charter.bases else set()
        for base in charter.bases:
            lacking = [file for file in base.files if file not in here]
            if lacking:
                yield (
                    f"base {shown(base.name)} of {shown(charter.name)}: {len(lacking)} of its {len(base.files)} files"
                    f" are not here, the first with the SHA-256 {lacking[0].hex()}: get them, and name each under"
                    " [[models]]; no job that reads them can be trained here"
                )

    def those(self, wanted: Iterable[bytes]) -> tuple[Mapped, ...]:
        """The files with these digests.

        Raises:
            DataSetError: one of them is not here, or in a file that cannot be read; the message is for the study too,
                and names no path.
        """
        wanted, found, unread = {*wanted}, dict[bytes, tuple[Path, _Read]](), False
        for path in self._paths if wanted else ():
            try:
                read = self._look(path)
            except ConfigurationError as fault:
                _log.warning("%s", fault)
                unread = True
            else:
                found[read.digest] = path, read
        missing = sorted(each.hex() for each in wanted if each not in found)
        if missing and unread:
            raise DataSetError("a file of a base model cannot be read at its node, whose log says why")
        if missing:
            raise DataSetError(
                f"the base model's file with the SHA-256 {missing[0]} is not at this node: its owner names it under"
                " [[models]] of node.toml"
            )
        return tuple(Mapped(digest, str(found[digest][0]), found[digest][1].identity) for digest in sorted(wanted))

    def _look(self, path: Path) -> _Read:
        try:
            with open_regular(path) as file:
                identity = identity_of(file.fileno())
                known = self._read.get(path)
                if known is not None and known.identity == identity:
                    return known
                digest = hashlib.file_digest(file, "sha256").digest()
                if identity_of(file.fileno()) != identity:
                    raise ConfigurationError(f"{path} is being written to: start once it is whole")
        except OSError as fault:
            raise ConfigurationError(f"{path}, under [[models]], cannot be read: {fault.strerror or fault}") from None
        self._read[path] = found = _Read(identity, digest)
        return found
