"""A node's records: the rounds that it took part in, the cohorts that it signed, the ledger as far as it knows it.

The members' memory keeps an aggregator from being rolled back, so an entry is on the disk before anybody hears of it.
There is one for all charters that a node works under, side by side: what was released of a data set is counted under
whatever charter and whatever name.

The entries are one list that only grows, in SQLite; each holds the hash of all before it, so that a damaged file is
found when it is opened. The newest model lies in a file beside it, which an entry names. The model's digest shows that
the file is whole.

An older copy of the file in its place cannot be found: it makes the node forget all that came after. Only the node's
owner can put one there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from cloister.errors import RecordsError
from cloister.node.study.entries import Began, Content, Entry, Kept, Named, Released, Salted, Signed, TookPart

if TYPE_CHECKING:
    from cloister.ledger.sync import ModelState  # NumPy comes with it, which is for the thread that takes part

FILE: Final = "records.sqlite"
_FORMAT: Final = 4
_APPLICATION: Final = 0x434C5354  # "CLST": what SQLite keeps for file(1) and its like
_START: Final = hashlib.sha256(b"cloister node records 4\0").digest()


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Began | Content | Named | TookPart | Salted | Signed | Released | Kept)


@dataclass
class _Known:
    """One charter's entries, by kind."""

    chain: list[bytes] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    took_part: dict[int, TookPart] = field(default_factory=dict)
    signed: dict[int, Signed] = field(default_factory=dict)
    kept: Kept | None = None


class Records:
    """One node's records, in ``folder``; None keeps them in memory, for rehearsals in one process.

    One process at a time writes; ``read_only`` looks on.

    Raises:
        RecordsError: another node uses them, they are damaged, or cannot be read or written. All methods that write
            raise it too; then nothing was written, and nothing may be signed or contributed.
    """

    def __init__(self, folder: Path | None, *, read_only: bool = False) -> None:
        self._folder = folder
        self._charters: dict[bytes, _Known] = {}
        self._identity = b""
        self._own: str | None = None
        self._spent: dict[str, int] = {}
        self._salts: dict[str, bytes] = {}
        self._contents: dict[str, Content] = {}
        self._first: dict[bytes, str] = {}
        self._same: dict[str, str] = {}
        self._batches: dict[str, int] = {}
        self._trained: dict[bytes, list[TookPart]] = {}
        self._users = 1
        self.together: Final = threading.RLock()
        """Held by whoever looks at the records and writes what follows from that, so that nobody does so in between."""
        self._signed: dict[bytes, list[Signed]] = {}
        self._models: dict[bytes, ModelState] = {}
        self._count, self._hash = 0, _START
        with ExitStack() as opened, _sqlite("opened"):
            if folder is not None and not read_only:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened.callback(os.close, _lock(folder))
            self._database = opened.enter_context(closing(_connect(folder, read_only=read_only)))
            self._load(read_only=read_only)
            if not self._identity and not read_only:
                self._append([Began(secrets.token_bytes(32))])
            self._opened = opened.pop_all()

    def hold(self) -> Records:
        """The same records for one more user, who closes them too."""
        self._users += 1
        return self

    def close(self) -> None:
        """Closes the file once all users have closed it, so that another process can use it."""
        self._users -= 1
        if self._users <= 0:
            self._opened.close()

    # What is known

    @property
    def charters(self) -> tuple[bytes, ...]:
        """The digests of the charters that have entries."""
        return tuple(self._charters)

    def chain(self, charter: bytes) -> tuple[bytes, ...]:
        """The ledger's records, from the first on."""
        return tuple(self._of(charter).chain)

    def released(self, charter: bytes) -> tuple[int, ...]:
        """The numbers of the rounds in the ledger."""
        return tuple(self._of(charter).released)

    def took_part(self, charter: bytes) -> dict[int, TookPart]:
        """The contributions, by round."""
        return dict(self._of(charter).took_part)

    def signed(self, charter: bytes) -> dict[int, Signed]:
        """The signatures, by round."""
        return dict(self._of(charter).signed)

    def highest(self, charter: bytes) -> int:
        """The highest round that it took part in or signed; 0 before the first. Every later one has a higher number."""
        known = self._of(charter)
        return max((0, *known.took_part, *known.signed))

    @property
    def identity(self) -> bytes:
        """The memory's own name, 32 bytes."""
        return self._identity

    @property
    def own_id(self) -> str | None:
        """The id under which charters list this organisation; None before the first."""
        return self._own

    def same(self, data: str) -> frozenset[str]:
        """The names that a data set has had: its own, and all under which a file with the same content was seen."""
        root = self._root(data)
        return frozenset({data, *(name for name in self._same if self._root(name) == root)})

    def spent(self, data: str) -> int:
        """The number of cohorts that were signed, under any charter, with a contribution from this data set in them,
        whatever it was called."""
        return sum(self._spent.get(name, 0) for name in self.same(data))

    def salt(self, data: str) -> bytes | None:
        """The secret of a data set, 32 bytes; None before it was first trained on."""
        names = self.same(data)
        return next((salt for name, salt in self._salts.items() if name in names), None)

    def content(self, data: str) -> Content | None:
        """What the data set's file was when it was looked at last."""
        return self._contents.get(data)

    def batch_size(self, data: str) -> int | None:
        """The rows of a step in all trainings on a data set; None before the first."""
        return next((found for name in self.same(data) if (found := self._batches.get(name)) is not None), None)

    def trained_on(self, model: bytes, data: str) -> tuple[TookPart, ...]:
        """The contributions from a data set, under any charter, to rounds that started from this model."""
        names = self.same(data)
        return tuple(entry for entry in self._trained.get(model, ()) if entry.data in names)

    def on_model(self, model: bytes) -> tuple[frozenset[str], ...]:
        """The ids of the members of each cohort that was signed, under any charter, for a round that started from this
        model."""
        return tuple(frozenset(signed.members) for signed in self._signed.get(model, ()))

    def kept(self, charter: bytes) -> tuple[bytes, bytes | None] | None:
        """The digests of the newest model that was kept, and of the strategy's state beside it."""
        kept = self._of(charter).kept
        return None if kept is None else (kept.model, kept.state)

    def model(self, charter: bytes) -> ModelState | None:
        """The newest model that was kept; None too where its file is gone or damaged: others have it."""
        kept = self._of(charter).kept
        if kept is None:
            return None
        if self._folder is None:
            return self._models.get(charter)
        from cloister.node.study import model_file

        found = model_file.read(_model_file(self._folder, kept), kept=kept)
        if found is None:
            self._of(charter).kept = None
        return found

    # What is written

    def take_part(self, entry: TookPart) -> None:
        """Writes down a contribution. When this returns, no crash undoes it."""
        self._append([entry])

    def name(self, entry: Named) -> None:
        """Writes down the id under which a charter lists this organisation, as ``take_part``."""
        self._append([entry])

    def see(self, entry: Content) -> None:
        """Writes down what a data set's file is, as ``take_part``."""
        self._append([entry])

    def draw(self, entry: Salted) -> None:
        """Writes down the secret of a data set, as ``take_part``. It has one, for good."""
        self._append([entry])

    def sign(self, entry: Signed) -> None:
        """Writes down a signature, as ``take_part``."""
        self._append([entry])

    def release(
        self,
        charter: bytes,
        records: Sequence[tuple[int, bytes]],
        *,
        model: ModelState | None = None,
        tensors: bytes = b"",
    ) -> None:
        """Writes down further records of the ledger, each with its round, and the model that the last one released.

        ``tensors``: the digest of the model's tensors (``cloister.ledger.job.tensors_digest``).
        """
        entries: list[Entry] = [Released(charter, number, record) for number, record in records]
        if model is None:
            self._append(entries)
            return
        parts = (model.vector, *model.averages)
        sizes = tuple(map(len, parts))
        kept = Kept(charter, model.digest, tensors, model.state_digest, sizes, model.rounds)
        before = self._of(charter).kept
        if self._folder is None:
            self._models[charter] = model
        else:
            from cloister.node.study import model_file

            with _sqlite("written"):
                model_file.write(_model_file(self._folder, kept), parts)
        self._append([*entries, kept])
        if self._folder is not None and before is not None:
            old = _model_file(self._folder, before)
            if old != _model_file(self._folder, kept):
                with suppress(OSError):  # it only takes room
                    old.unlink()

    def _append(self, entries: Sequence[Entry]) -> None:
        with self.together:
            self._append_alone(entries)

    def _append_alone(self, entries: Sequence[Entry]) -> None:
        rows, count, chained = [], self._count, self._hash
        for entry in entries:
            data = _encode(entry)
            count, chained = count + 1, _chained(chained, data)
            rows.append((count, data, chained))
        with _sqlite("written"):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # what failed may have rolled back already
                    self._database.execute("ROLLBACK")
                raise
        self._count, self._hash = count, chained
        for entry in entries:
            self._learn(entry)

    def _load(self, *, read_only: bool) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0 and not read_only and not self._database.execute("SELECT 1 FROM sqlite_schema").fetchone():
            self._database.executescript(
                "BEGIN; CREATE TABLE entries (number INTEGER PRIMARY KEY, entry BLOB NOT NULL, hash BLOB NOT NULL);"
                f" PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_FORMAT}; COMMIT;"
            )
        elif version != _FORMAT:
            raise RecordsError(
                f"the node's records are of version {version}, and not {_FORMAT}: go on with the version of"
                " cloister that wrote them"
            )
        for number, data, found in self._database.execute("SELECT number, entry, hash FROM entries ORDER BY number"):
            self._count, self._hash = self._count + 1, _chained(self._hash, data)
            if (number, found) != (self._count, self._hash):
                raise sqlite3.DatabaseError("entries are missing or changed")
            self._learn(_decoder.decode(data))

    def _learn(self, entry: Entry) -> None:
        match entry:
            case Began():
                self._identity = entry.memory
            case Content():
                self._contents[entry.data] = entry
                first = self._first.setdefault(entry.digest, entry.data)
                self._same[self._root(entry.data)] = self._root(first)
            case Named():
                self._own = self._own or entry.id
            case _:
                self._learn_of(self._charters.setdefault(entry.charter, _Known()), entry)

    def _root(self, data: str) -> str:
        """One name for all that a data set has had."""
        while (other := self._same.setdefault(data, data)) != data:
            data = other
        return data

    def _learn_of(self, known: _Known, entry: TookPart | Salted | Signed | Released | Kept) -> None:
        match entry:
            case TookPart():
                known.took_part[entry.round] = entry
                self._trained.setdefault(entry.model, []).append(entry)
                self._batches.setdefault(entry.data, entry.batch_size)
            case Salted():
                self._salts.setdefault(entry.data, entry.salt)
            case Signed():
                known.signed[entry.round] = entry
                self._signed.setdefault(entry.model, []).append(entry)
                if entry.data is not None:
                    self._spent[entry.data] = self._spent.get(entry.data, 0) + 1
            case Released():
                known.chain.append(entry.record)
                known.released += [entry.round] if entry.round else []
            case Kept():
                known.kept = entry

    def _of(self, charter: bytes) -> _Known:
        return self._charters.get(charter, _Known())


def _encode(entry: Entry) -> bytes:
    """Raises RecordsError for an entry that could not be read back: it would stop this node for good."""
    data = _encoder.encode(entry)
    try:
        _decoder.decode(data)
    except msgspec.MsgspecError as fault:
        raise RecordsError(f"nothing is written to the node's records that could not be read back: {fault}") from None
    return data


def _chained(before: bytes, data: bytes) -> bytes:
    return hashlib.sha256(before + data).digest()


def _connect(folder: Path | None, *, read_only: bool) -> sqlite3.Connection:
    if folder is None:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    uri = f"{(folder / FILE).absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    # One thread at a time uses it: the one that takes part.
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        if not read_only:
            # In this mode a commit writes zeros over the journal's header, and FULL waits until they are on the disk:
            # no loss of power rolls the entry back (https://sqlite.org/pragma.html#pragma_synchronous). No file is made
            # or deleted for it. A write-ahead log would wait for the disk less often, but SQLite silently skips damaged
            # parts of one, so that a node would forget its last signature.
            database.execute("PRAGMA journal_mode = PERSIST")
            database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _lock(folder: Path) -> int:
    """Takes the lock that keeps a second node off. It is held until it is closed or the process ends."""
    descriptor = os.open(folder / "records.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RecordsError(
            f"another node uses the records in {folder}: one memory serves all charters of a data set, so let that node"
            " work under this charter too ([[charters]])"
        ) from None
    return descriptor


@contextmanager
def _sqlite(what: str) -> Iterator[None]:
    """Turns every error with a file into a ``RecordsError``."""
    try:
        yield
    except OSError as fault:
        raise RecordsError(f"the node's records cannot be {what}: {fault.strerror or fault}") from None
    except sqlite3.OperationalError as fault:  # a full disk, a file that may not be read
        raise RecordsError(f"the node's records cannot be {what}: {fault}") from None
    except (sqlite3.Error, msgspec.MsgspecError, TypeError, OverflowError) as fault:
        raise RecordsError(
            f"the node's records are damaged ({fault}). Until they are restored from a backup that lacks no round, this"
            " node signs and contributes nothing: a cohort that it forgot could be signed a second time"
        ) from None


def _model_file(folder: Path, kept: Kept) -> Path:
    return folder / f"{kept.charter.hex()[:16]}.{kept.model.hex()[:32]}.model"
