"""What a node remembers of a data set's file: its content, and whose memory what was released of it stands in.

A mark lies beside each file that studies train on: it names the memory (``cloister.node.study.journal``) that counts
its releases. A second node on the same file that brings another memory is refused, since it would know nothing of what
came out before. The content, by SHA-256, finds a file again under other tags or in another place, and shows that it has
changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cloister.errors import ConfigurationError, RecordsError
from cloister.files import identity_of, open_regular, read_text
from cloister.node.config import StudyData
from cloister.node.study.entries import Content
from cloister.node.study.journal import Records

MARK: Final = ".memory"
"""After the file's name."""
_MARK_BYTES: Final = 8192


class DataMemory:
    """The data sets that a node trains on, by the names in its records. May be used by several threads.

    Raises:
        RecordsError: a file is marked as another memory's, or cannot be marked or read.
    """

    def __init__(self, data: Iterable[StudyData], *, records: Records, folder: Path) -> None:
        self._paths: Mapping[str, Path] = {each.name: each.path for each in data}
        self._records = records
        for each in data:
            if not each.unsafe_unmarked:
                _claim(each, memory=records.identity, folder=folder)
            self.content(each.name)

    def content(self, name: str) -> bytes:
        """SHA-256 of the file as it is now; it is read anew only where its size, its times, its inode or its place are
        others. Nobody sets the time of the last change (ctime), as archives do that of the last writing.

        Raises:
            RecordsError: it cannot be read, or what was found cannot be written down.
        """
        path = self._paths[name]
        try:
            with open_regular(path) as file:
                inode, size, written_ns, changed_ns = identity_of(file.fileno())
                now = (size, written_ns, changed_ns, inode, str(path.resolve()))
                known = self._records.content(name)
                if known is not None and now == (known.size, known.mtime_ns, known.ctime_ns, known.inode, known.path):
                    return known.digest
                digest = hashlib.file_digest(file, "sha256")
        except OSError as fault:
            raise RecordsError(f"the data set {name!r} cannot be read: {fault.strerror or fault}") from None
        entry = Content(name, digest.digest(), *now)
        self._records.see(entry)
        return entry.digest


def _claim(data: StudyData, *, memory: bytes, folder: Path) -> None:
    """Marks a file as this memory's, or finds that it is.

    Raises:
        RecordsError: it is another's, or cannot be marked.
    """
    path = data.path.resolve()
    mark = path.with_name(path.name + MARK)
    text = json.dumps({"memory": memory.hex(), "folder": str(folder.absolute())}) + "\n"
    try:
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        _check(data, mark, memory)
        return
    except OSError as fault:
        raise RecordsError(
            f"the data set {data.name!r} cannot be marked as this node's ({fault.strerror}), so that another node would"
            " not notice what was released of it. Let the node write to its folder once, or say unsafe_unmarked = true"
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _check(data: StudyData, mark: Path, memory: bytes) -> None:
    try:
        said = json.loads(read_text(mark, limit=_MARK_BYTES))
        whose, where = str(said["memory"]), str(said["folder"])
    except (ConfigurationError, ValueError, KeyError, TypeError):
        raise RecordsError(
            f"{mark} says whose memory the data set {data.name!r} is in, and is damaged; restore it from a backup"
        ) from None
    if whose != memory.hex():
        raise RecordsError(
            f"what was released of the data set {data.name!r} is remembered elsewhere, in {where!a}: one memory"
            " serves all charters of a data set. Let that node work under this charter too ([[charters]]), or name its"
            " folder as this node's state once it has ended"
        )
