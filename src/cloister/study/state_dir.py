"""A researcher's copy of a study in a folder, so that a script that was ended can be run again and go on.

    chain.jsonl           the records, for `cloister ledger audit`
    newest.safetensors    the model that the newest round released, and the strategy's state
    job                   the job that it is of, which names the model's tensors

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
from cloister.errors import ConfigurationError, JobError
from cloister.files import read
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job, decode, model_digest
from cloister.ledger.jsonl import write_line
from cloister.ledger.sync import ModelState
from cloister.study.log import CHAIN, read_records
from cloister.wire.limits import JOB_BYTES
from cloister.worker.data.headers import check_safetensors
from cloister.worker.values import as_bytes

NEWEST: Final = "newest.safetensors"
JOB: Final = "job"
_LOCK: Final = "lock"
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
