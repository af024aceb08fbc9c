"""A researcher's copy of a study in a folder, so that a script that was ended can be run again and go on.

    chain.jsonl           the records, for `cloister ledger audit`
    newest.safetensors    the model that the newest round released, and the strategy's state
    job                   the job that it is of, which names the model's tensors
    <digest>/             the same of each charter before, by its digest

The chain grows by a line for each record; an incomplete last line is no record yet. The model is written whole or not
at all, and before its record: nobody could go on with a chain if its newest model were lost everywhere, but a model
that is ahead of its chain is just sent again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cloister.charter import Charter
from cloister.charter.charter import DIGEST_BYTES
from cloister.errors import ConfigurationError, JobError, LedgerError
from cloister.files import matching, read
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job, decode, model_digest
from cloister.ledger.jsonl import write_line
from cloister.ledger.records import Cohort, InstanceRecord, RoundRecord, decode_cohort
from cloister.ledger.records import decode as decode_record
from cloister.ledger.sync import ModelState
from cloister.study.log import CHAIN, ROUNDS, read_records
from cloister.wire.limits import JOB_BYTES
from cloister.worker.data.headers import check_safetensors
from cloister.worker.values import as_bytes

NEWEST: Final = "newest.safetensors"
JOB: Final = "job"
_LOCK: Final = "lock"
_ASIDE: Final = 1024
"""The most folders that are looked into."""
_ROUNDS: Final = "rounds"
_MODEL: Final = "model"
_AVERAGES: Final = ("momentum", "squares")


class Folder:
    """The folder of one study, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = False  # an incomplete last line would spoil the next one
        self._job = b""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other scripts away.

        Raises:
            ConfigurationError: another script uses it, or the folder cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise ConfigurationError(f"{self.path} cannot be used: {fault.strerror}") from None
        try:
            _take(lock, self.path)
            yield
        finally:
            os.close(lock)

    def follow(self, charter: Charter) -> bool:
        """Lays aside what is kept under the charter that ``charter`` supersedes, in a folder of its own within this
        one. Returns whether there was something.

        Raises:
            ConfigurationError: the files cannot be read or moved.
            LedgerError: they are of another charter.
        """
        kept = self._charter()
        if kept is None or kept == charter.digest:
            return False
        if kept != charter.supersedes:
            raise LedgerError(
                f"{self.path} holds the chain of another charter, {kept.hex()}, which serial {charter.serial} of"
                f" {charter.name!r} does not supersede: name another folder with state=, or run the script under the"
                " charters in between first"
            )
        aside = self.path / kept.hex()
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            # The chain goes last: a script that was ended in between goes on from here.
            for name in (JOB, NEWEST, CHAIN):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self.path / name, aside / name)
            for folder in (aside, self.path):
                _sync(folder)
        except OSError as fault:
            raise ConfigurationError(f"{aside} cannot be written: {fault.strerror}") from fault
        self._whole, self._job = False, b""
        return True

    def before(self, charter: Charter) -> Folder | None:
        """What is kept of the charter that ``charter`` supersedes, once it was laid aside; None if there is nothing."""
        if charter.supersedes is None or not (self.path / charter.supersedes.hex()).is_dir():
            return None
        return Folder(self.path / charter.supersedes.hex())

    def released_before(self) -> int:
        """The number of rounds that were released under the charters whose chains were laid aside.

        Raises:
            ConfigurationError, LedgerError: as ``records``.
        """
        return sum(map(len, self._rounds_before()))

    def starts_before(self) -> set[bytes]:
        """The first models of the charters whose chains were laid aside, as ``released_before``."""
        return {rounds[0].model for rounds in self._rounds_before() if rounds}

    def _rounds_before(self) -> Iterator[list[Cohort]]:
        for path in matching(self.path, "[0-9a-f]" * (2 * DIGEST_BYTES), limit=_ASIDE):
            records = map(decode_record, Folder(path).records())
            yield [decode_cohort(each.cohort) for each in records if isinstance(each, RoundRecord)]

    def is_of(self, charter: Charter) -> bool:
        """Whether it was begun under this charter, or the one that it supersedes."""
        try:
            kept = self._charter()
        except (ConfigurationError, LedgerError):
            return False
        return self.before(charter) is not None if kept is None else kept in (charter.digest, charter.supersedes)

    def _charter(self) -> bytes | None:
        """The digest of the charter that the chain is of; None without a chain."""
        first = next(self.records(), None)
        if first is None:
            return None
        record = decode_record(first)
        return record.charter if isinstance(record, InstanceRecord) else decode_cohort(record.cohort).charter

    def ledger(self, charter: Charter) -> Ledger:
        """Reads the ledger that is kept.

        Raises:
            ConfigurationError: the file cannot be read.
            LedgerError: it holds no chain of this charter.
        """
        return Ledger.from_records(charter, self.records())

    def records(self) -> Iterator[bytes]:
        """Reads the records that are kept; whether they are a chain is not looked at.

        Raises:
            ConfigurationError: the file cannot be read.
            LedgerError: a line of it holds no record.
        """
        return read_records(self.path / CHAIN)

    def job(self) -> Job | None:
        """Reads the job that is kept; None if there is none.

        Raises:
            ConfigurationError: the file cannot be read, or is damaged.
        """
        file = self.path / JOB
        try:
            return decode(read(file, limit=JOB_BYTES))
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise ConfigurationError(f"{file} cannot be read: {fault.strerror}; run the script again") from None
        except JobError as fault:
            raise ConfigurationError(f"{file} is damaged ({fault}); run the script again") from None

    def keep_job(self, job: bytes) -> None:
        """Writes the job that the models kept from now on are of.

        Raises:
            ConfigurationError: it cannot be written.
        """
        if job != self._job:
            replace_file(self.path / JOB, lambda draft: draft.write_bytes(job))
            self._job = job

    def keep_records(self, records: Sequence[bytes], *, before: Sequence[bytes]) -> None:
        """Writes the chain. ``before``: its records that were kept until now.

        Raises:
            ConfigurationError: it cannot be written.
        """
        file = self.path / CHAIN
        if not self._whole or records[: len(before)] != before:
            write_chain(file, records)
            self._whole = True
            return
        try:
            with file.open("ab") as opened:
                opened.writelines(write_line(record).encode() for record in records[len(before) :])
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as fault:
            raise ConfigurationError(f"{file} cannot be written: {fault.strerror}") from fault

    def model(self, job: Job) -> ModelState | None:
        """Reads the model that is kept, if it has the tensors of ``job``. It need not be the newest.

        Raises:
            ConfigurationError: the file cannot be read.
        """
        file = self.path / NEWEST
        if not file.exists():
            return None
        try:
            check_safetensors(file)
            with safe_open(file, framework="pt") as opened:
                rounds = int((opened.metadata() or {})[_ROUNDS])
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
                vector, *averages = (found[name] for name in (_MODEL, *_AVERAGES) if name in found)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
            raise ConfigurationError(f"{file} cannot be read; move it away, and it is sent again") from fault
        if (vector.numel(), vector.dtype) != (job.layout.length, getattr(torch, job.layout.dtype)):
            return None
        values = as_bytes(vector)
        return ModelState(model_digest(job, values), values, tuple(map(as_bytes, averages)), rounds)

    def keep(self, model: ModelState, *, dtype: str) -> None:
        """Writes a model that a round released. ``dtype``: the element type of its vector.

        Raises:
            ConfigurationError: it cannot be written.
        """
        vectors = zip(
            (_MODEL, *_AVERAGES), (model.vector, *model.averages), (dtype, "float64", "float64"), strict=False
        )
        tensors = {
            name: torch.frombuffer(bytearray(values), dtype=getattr(torch, kind)) for name, values, kind in vectors
        }
        replace_file(self.path / NEWEST, lambda draft: save_file(tensors, draft, {_ROUNDS: str(model.rounds)}))


def folder_of(charter: Charter, *, file: Path) -> Path:
    """The folder of a script that names none: ``charter.rounds`` beside ``charter.toml``; or, where that is not there,
    the one beside it that was begun under this charter or the one before."""
    own = file.with_suffix(ROUNDS)
    if own.exists() or charter.supersedes is None:
        return own
    others = [each for each in matching(own.parent, f"*{ROUNDS}", limit=_ASIDE) if Folder(each).is_of(charter)]
    return others[0] if len(others) == 1 else own


def write_chain(file: Path, records: Sequence[bytes]) -> None:
    """Writes a chain whole, for ``cloister ledger audit``.

    Raises:
        ConfigurationError: it cannot be written.
    """

    def into(draft: Path) -> None:
        with draft.open("wb") as opened:
            opened.writelines(write_line(record).encode() for record in records)

    replace_file(file, into)


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigurationError(
            f"{path} is in use by another script; end that one, or name another folder with state="
        ) from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(file: Path, into: Callable[[Path], object]) -> None:
    """Replaces a file by the draft that ``into`` writes: a reader finds all of the new file, or the one before.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            into(Path(name))
            os.fsync(descriptor)
            os.replace(name, file)
        finally:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as fault:
        raise ConfigurationError(f"{file} cannot be written: {fault}") from fault
