"""A node's records: the rounds that it answered, the cohorts that it agreed to, the ledger as far as it knows it.

The members' memory keeps an aggregator from being rolled back, so an entry is on the disk before anybody hears of it.
There is one for all charters that a node works under, side by side: what was released of a data set is counted under
whatever charter and whatever name (``cloister.node.study.remembered``).

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
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from cloister.errors import RecordsError
from cloister.node.study.entries import (
    Answered,
    Began,
    Committed,
    Consented,
    Content,
    Entry,
    Kept,
    Listed,
    Named,
    Released,
    Salted,
    Sketched,
    TookPart,
    Voided,
)
from cloister.node.study.remembered import Remembered

if TYPE_CHECKING:
    from cloister.ledger.sync import ModelState  # NumPy comes with it, which is for the thread that takes part

FILE: Final = "records.sqlite"
_JOB: Final = "job"
_HOME: Final = "home"
_FORMAT: Final = 6
_APPLICATION: Final = 0x434C5354  # "CLST": what SQLite keeps for file(1) and its like
_START: Final = hashlib.sha256(b"cloister node records 6\0").digest()
_REPEATED: Final = ("charter", "cohort", "content", "data", "job", "members", "model")

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Entry)


class Records(Remembered):
    """One node's records, in ``folder``; None keeps them in memory, for rehearsals in one process.

    One process at a time writes; ``read_only`` looks on.

    Raises:
        RecordsError: another node uses them, they are damaged, or cannot be read or written. All methods that write
            raise it too; then nothing was written, and nothing may be signed or contributed.
    """

    def __init__(self, folder: Path | None, *, read_only: bool = False) -> None:
        self._folder = folder
        super().__init__()
        self._users = 1
        self.together: Final = threading.RLock()
        """Held by whoever looks at the records and writes what follows from that, so that nobody does so in between."""
        self._models: dict[bytes, ModelState] = {}
        self._files: dict[tuple[bytes, str], bytes] = {}
        self._coming: dict[bytes, tuple[Kept, ModelState | None]] = {}
        """By charter: what is written with what is written next, and the model as long as it has no file."""
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
        """Closes the file once all users have closed it, so that another process can use it. A model that was
        put off is not written by that."""
        self._users -= 1
        if self._users <= 0:
            self._opened.close()

    def kept(self, charter: bytes) -> tuple[bytes, bytes | None] | None:
        """The digests of the newest model that was kept, and of the strategy's state beside it."""
        kept = self._newest(charter)
        return None if kept is None else (kept.model, kept.state)

    def tensors(self, charter: bytes) -> bytes:
        """The digest of the tensors that the newest model has; empty where none was kept."""
        kept = self._newest(charter)
        return b"" if kept is None else kept.tensors

    def model(self, charter: bytes) -> ModelState | None:
        """The newest model that was kept; None too where its file is gone or damaged: others have it."""
        kept, model = self._coming.get(charter, (self._of(charter).kept, None))
        if model is not None or kept is None:
            return model
        if self._folder is None:
            return self._models.get(charter)
        from cloister.node.study import model_file

        found = model_file.read(_model_file(self._folder, kept), kept=kept)
        if found is None:
            self._of(charter).kept = None
        return found

    def job(self, charter: bytes) -> bytes | None:
        """The job that was kept as the one that is under way, encoded; None if there is none. It may be damaged."""
        return self._file_of(charter, _JOB)

    def home(self, charter: bytes) -> bytes | None:
        """What was kept of the buffers that stay here, encoded; None if there is nothing. It may be damaged."""
        return self._file_of(charter, _HOME)

    def _file_of(self, charter: bytes, ending: str) -> bytes | None:
        if self._folder is None:
            return self._files.get((charter, ending))
        from cloister.node.study import kept_file

        return kept_file.read(_file(self._folder, charter, ending))

    def _newest(self, charter: bytes) -> Kept | None:
        kept, _ = self._coming.get(charter, (self._of(charter).kept, None))  # another's thread may write it meanwhile
        return kept

    # What is written

    def keep_home(self, charter: bytes, data: bytes) -> None:
        """Keeps the buffers that stay here, encoded. It is no entry: what is lost of them is learned again.

        Raises:
            RecordsError: it cannot be written.
        """
        self._keep_file(charter, _HOME, data)

    def keep_job(self, charter: bytes, data: bytes) -> None:
        """Keeps a job, encoded, as the one that is under way; nothing: none is. It is no entry: nobody's safety hangs
        on it, and what is lost of it others have.

        Raises:
            RecordsError: it cannot be written.
        """
        self._keep_file(charter, _JOB, data)

    def _keep_file(self, charter: bytes, ending: str, data: bytes) -> None:
        if self._folder is None:
            self._files[charter, ending] = data
            return
        from cloister.node.study import kept_file

        with _sqlite("written"):
            kept_file.write(_file(self._folder, charter, ending), data)

    def take_part(self, entry: TookPart, seen: Sketched | None = None) -> None:
        """Writes down a contribution, and with it what the model looked like that it starts from, once a charter. When
        this returns, no crash undoes it."""
        new = seen is not None and not self.is_sketched(seen.model, charter=seen.charter)
        self._append([seen, entry] if seen is not None and new else [entry])

    def name(self, entry: Named) -> None:
        """Writes down the id under which a charter lists this organisation, as ``take_part``."""
        self._append([entry])

    def see(self, entry: Content) -> None:
        """Writes down what a data set's file is, as ``take_part``."""
        self._append([entry])

    def list_owners(self, entries: Sequence[Listed]) -> None:
        """Writes down the keys that a charter lists for ids, as ``take_part``."""
        self._append(entries)

    def draw(self, entry: Salted) -> None:
        """Writes down the secret of a data set, as ``take_part``. It has one, for good."""
        self._append([entry])

    def answer(self, entry: Answered) -> None:
        """Writes down that a round is answered, as ``take_part``."""
        self._append([entry])

    def consent(self, entry: Consented) -> None:
        """Writes down a cohort that is agreed to, as ``take_part``. Its round is spent from then on."""
        self._append([entry])

    def commit(self, entry: Committed) -> None:
        """Writes down a cohort that is committed, as ``take_part``."""
        self._append([entry])

    def void(self, entries: Sequence[Voided]) -> None:
        """Writes down that cohorts are void, as ``take_part``."""
        self._append(entries)

    def release(
        self,
        charter: bytes,
        records: Sequence[tuple[int, bytes]],
        *,
        model: ModelState | None = None,
        tensors: bytes = b"",
        put_off: bool = False,
    ) -> None:
        """Writes down further records of the ledger, each with its round, and the model that the last one released.

        ``tensors``: the digest of the model's tensors (``cloister.ledger.job.Tensors``). ``put_off``: the model is not
        written before ``catch_up``. No safety hangs on it, and others have it.
        """
        entries: list[Entry] = [Released(charter, number, record) for number, record in records]
        kept = None if model is None else _kept(charter, model, tensors)
        if self._folder is None:
            self._models |= {} if model is None else {charter: model}
            self._append([*entries, *([] if kept is None else [kept])])
            return
        with self.together:
            if kept is not None:
                _encode(kept)  # it can be read back
                passed_over, filed = self._coming.get(charter, (None, None))
                if filed is None:
                    self._forget(passed_over, kept)
                self._coming[charter] = kept, model
            if not put_off:
                self.catch_up(whole=False)
            if entries or not put_off:
                self._append(entries)

    @property
    def behind(self) -> bool:
        """Whether a model was put off."""
        return bool(self._coming)

    def catch_up(self, *, whole: bool) -> None:
        """Writes the files of models that were put off; the entries that name them too, if ``whole``, or else with what
        is written next."""
        from cloister.node.study import model_file

        with self.together:
            for charter, (kept, model) in list(self._coming.items()):
                if model is None or self._folder is None:
                    continue
                del self._coming[charter]  # if it cannot be written it is not kept: others have it
                with _sqlite("written"):
                    model_file.write(_model_file(self._folder, kept), (model.vector, *model.averages))
                self._coming[charter] = kept, None
            if whole and self.behind:
                self._append([])

    def _append(self, entries: Sequence[Entry]) -> None:
        with self.together:
            self._append_alone(entries)

    def _append_alone(self, entries: Sequence[Entry]) -> None:
        """Writes entries, and with them those of models that have their files since."""
        new = [*(kept for kept, model in self._coming.values() if model is None), *entries]
        rows, count, chained = [], self._count, self._hash
        for entry in new:
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
        for entry in new:
            before = self._of(entry.charter).kept if isinstance(entry, Kept) else None
            self.learn(entry)
            if isinstance(entry, Kept):
                self._coming.pop(entry.charter, None)
                self._forget(before, entry)

    def _forget(self, before: Kept | None, kept: Kept) -> None:
        """Deletes the file of the model that was kept before."""
        if self._folder is not None and before is not None and before.model[:16] != kept.model[:16]:
            with suppress(OSError):  # it only takes room
                _model_file(self._folder, before).unlink()

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
        seen: dict[object, object] = {}
        for number, data, found in self._database.execute("SELECT number, entry, hash FROM entries ORDER BY number"):
            self._count, self._hash = self._count + 1, _chained(self._hash, data)
            if (number, found) != (self._count, self._hash):
                raise sqlite3.DatabaseError("entries are missing or changed")
            self.learn(_sharing(_decoder.decode(data), seen))


def _sharing(entry: Entry, seen: dict[object, object]) -> Entry:
    """The entry, with those values that others have too in one place in memory: decoded, each would be a copy."""
    fields = {name: value for name in _REPEATED if (value := getattr(entry, name, None)) is not None}
    return msgspec.structs.replace(entry, **{name: seen.setdefault(value, value) for name, value in fields.items()})


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
            " node signs and contributes nothing: it may have forgotten a cohort that it committed"
        ) from None


def _kept(charter: bytes, model: ModelState, tensors: bytes) -> Kept:
    sizes = tuple(map(len, (model.vector, *model.averages)))
    return Kept(charter, model.digest, tensors, model.state_digest, sizes, model.rounds)


def _model_file(folder: Path, kept: Kept) -> Path:
    return folder / f"{kept.charter.hex()[:16]}.{kept.model.hex()[:32]}.model"


def _file(folder: Path, charter: bytes, ending: str) -> Path:
    return folder / f"{charter.hex()[:16]}.{ending}"
