"""The buffers that stay with their owner: BatchNorm's statistics of its own data, which no round ever sends (FedBN).

A round that comes to nothing must find them as it did: after a void round an owner contributes the very same again. So
what a training made of them counts once its round is released.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cloister.charter import Charter
from cloister.ledger.job import Job
from cloister.ledger.learned import learned
from cloister.ledger.sync import Values
from cloister.node.study.journal import Records
from cloister.wire.fields import Digest
from cloister.wire.layout import Layout, lay_out


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    tensors: Digest
    data: str
    vector: bytes


_decoder: Final = msgspec.msgpack.Decoder(_Kept)


class HomeBuffers:
    """One charter's, which ``records`` keeps."""

    def __init__(self, charter: Charter, *, records: Records) -> None:
        self._at_home = charter.limits.home_buffers
        self._charter = charter.digest
        self._records = records
        self._made: tuple[int, _Kept] | None = None

    def nbytes(self, job: Job) -> int:
        """The length of their vector, in bytes; 0 where none stay here."""
        return self._layout(job).nbytes

    def before(self, job: Job, *, data: str) -> bytes:
        """Their vector as the last released round on this data set left it; empty where there was none."""
        kept = self._records.home(self._charter) if self.nbytes(job) else None
        try:
            found = None if kept is None else _decoder.decode(kept)
        except msgspec.MsgspecError:  # damaged, and no promise hangs on it
            found = None
        if found is None or (found.tensors, found.data, len(found.vector)) != (
            job.tensors.digest,
            data,
            self.nbytes(job),
        ):
            return b""
        return found.vector

    def made(self, number: int, vector: Values, *, job: Job, data: str) -> None:
        """Takes what the training for a round made of them."""
        self._made = (number, _Kept(job.tensors.digest, data, bytes(vector))) if len(vector) else None

    def released(self, number: int) -> None:
        """Keeps what the training for this round made of them, if there was one. Raises ``RecordsError``."""
        made, self._made = self._made, None
        if made is not None and made[0] == number:
            self._records.keep_home(self._charter, msgspec.msgpack.encode(made[1]))

    def _layout(self, job: Job) -> Layout:
        return lay_out(learned(job.plan)[1] if self._at_home else {})
