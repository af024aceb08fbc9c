"""What a node works under: the charter of its configuration, once all that has to be true of it is.

A node remembers, on disk, the newest charter that it accepted of each name, so that nobody can bring back an older one,
or show it one of two that share a serial.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cloister.charter.charter import Charter
from cloister.charter.checking import check_valid, enforceable
from cloister.charter.owner_limits import check_floors
from cloister.charter.signatures import FILE_BYTES, Signature, check_signed, decode
from cloister.charter.succession import check_successor
from cloister.charter.toml import MEMBERS, parse
from cloister.errors import CharterError
from cloister.files import matching, read_text
from cloister.node.config import CharterUse
from cloister.tables import TEXT_BYTES

_SIGNATURES: Final = 4 * MEMBERS
"""The most signature files that are read."""


def load_charter(use: CharterUse, *, own: str | None, now: datetime, remember: bool = True) -> Charter:
    """The charter that a node's configuration names, which is remembered from then on, unless it is only looked at.

    ``own``: the fingerprint of the node's identity; None in a TEE, where it is new at each start. ``now``: the time
    with its offset, by the owner's clock.

    Raises:
        CharterError: the charter has faults; it is not valid now; this software cannot enforce it; it names a
            simulated TEE and the configuration does not accept one; ``own`` is no member; a signature is missing or not
            valid; the owner's floors do not fit it; a newer one, or another with its serial, was accepted before; or a
            file cannot be read or written.
    """
    text = read_text(use.file, limit=TEXT_BYTES, error=CharterError)
    charter = parse(text, source=str(use.file))
    check_valid(charter, now=now)
    enforceable(charter)
    if not use.accept_simulated and any(entry.tee == "simulated" for entry in charter.reference):
        raise CharterError(
            f"the charter {charter.name!r} accepts a simulated TEE, which proves nothing; for a rehearsal, say"
            " accept_simulated = true under [charter] in the node's configuration"
        )
    signatures = read_signatures(use.signatures)
    known = None if use.state is None else _recall(use.state, charter.name)
    if known is None:
        check_signed(charter, signatures=signatures, own=own)
    else:
        check_successor(known, new=charter, signatures=signatures, own=own)
    if use.floors is not None:
        check_floors(charter, floors=use.floors)
    if remember and use.state is not None and (known is None or known.serial < charter.serial):
        _remember(use.state, charter, text)
    return charter


def read_signatures(folder: Path) -> tuple[Signature, ...]:
    """The signatures in a folder's ``*.sig`` files, unchecked; none where there is no folder.

    Raises:
        CharterError: a file is no signature or cannot be read, or there are too many.
    """
    files = matching(folder, "*.sig", limit=_SIGNATURES)
    if len(files) > _SIGNATURES:
        raise CharterError(f"{folder} holds more than {_SIGNATURES} signatures; keep those of this charter's members")
    return tuple(decode(read_text(file, limit=FILE_BYTES, error=CharterError), source=str(file)) for file in files)


def _recall(state: Path, name: str) -> Charter | None:
    """The newest charter of that name that was accepted."""
    file = _memory(state, name)
    try:
        file.stat()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise CharterError(f"{file} cannot be read: {fault.strerror}") from None
    first, _, text = read_text(file, limit=TEXT_BYTES + 128, error=CharterError).partition("\n")
    try:
        charter = parse(text, source=str(file))
        whole = charter.name == name and first == _seal(charter)
    except CharterError:
        whole = False
    if not whole:
        raise CharterError(
            f"{file} remembers which charter was accepted last, and is damaged; restore it from a backup. Only if you"
            f" are sure that the charter {name!r} is the newest one, remove the file"
        )
    return charter


def _remember(state: Path, charter: Charter, text: str) -> None:
    """Writes down the charter, for good: when this returns, no crash or loss of power undoes it."""
    file = _memory(state, charter.name)
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _draft(file) as draft:
            draft.write_text(f"{_seal(charter)}\n{text}", encoding="utf-8", newline="")
            _sync(draft)
            draft.replace(file)
        _sync(state)
    except OSError as fault:
        raise CharterError(
            f"{file} cannot be written, so that the charter would be forgotten: {fault.strerror}"
        ) from None


def _memory(state: Path, name: str) -> Path:
    return state / f"{name}.charter"


def _seal(charter: Charter) -> str:
    return f"# accepted {charter.digest.hex()}"


@contextlib.contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """A file of one's own beside ``file``, gone at the end unless it took its place."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".charter.")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
