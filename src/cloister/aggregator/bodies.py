"""Bodies of frames as they arrive: each part has its place, and is looked at on the way.

Whoever receives a body asks for its ``buffers`` one after another, fills each before it asks for the next, and calls
``update`` with each. The work that takes time is here (hashing, norms, reading a job), so that it runs in the thread of
the member that sends, or beside it, while the next part arrives.
Nothing here raises: an error is kept as ``fault``, and reported when the message is handled.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from cloister.aggregation.vectors import BLOCK, Travelled, Vector, blocks, check
from cloister.charter.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.errors import CloisterError, JobError, LedgerError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.ledger.sync import ModelState
from cloister.wire.halves import widened
from cloister.wire.layout import Regions
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.rounds import Chain


class Body(Protocol):
    """A body that is expected."""

    def buffers(self) -> Iterator[memoryview]:
        """Flat, writable views of bytes, together as long as the body."""
        ...

    def update(self, buffer: memoryview) -> None:
        """Looks at a buffer that is filled. One thread does so with all of them, in their order."""
        ...


class _Plain:
    """A body whose parts are not looked at."""

    def update(self, buffer: memoryview) -> None:
        """Nothing."""


class Discarded(_Plain):
    """A body that is read and discarded, because it comes too late."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes

    def buffers(self) -> Iterator[memoryview]:
        """The same bytes again and again."""
        return _scratch(self._nbytes)


class Update:
    """A contribution: a ``vector``, whose ``commitment`` and norms are known once all of it was looked at."""

    def __init__(self, vector: Travelled, *, salt: bytes, regions: Regions) -> None:
        self.vector = vector
        self._hash = hashlib.sha256(salt)
        self._seen = 0
        self._norms: tuple[list[float], list[float]] = ([], [])
        kinds = zip(regions, self._norms, strict=True)
        self._regions = deque(sorted(((each, norms) for some, norms in kinds for each in some), key=_start))

    @property
    def commitment(self) -> bytes:
        """The commitment to the parts that have been looked at."""
        return self._hash.digest()

    @property
    def norms(self) -> tuple[float, float]:
        """The L2 norms of its parameters and of its buffers, in float64. They are NaN or infinite if a value is, and
        NaN while a part was not looked at."""
        if self._seen < len(self.vector):
            return math.nan, math.nan
        return math.hypot(*self._norms[0]), math.hypot(*self._norms[1])

    def buffers(self) -> Iterator[memoryview]:
        """The vector, part by part."""
        return _chunks(_bytes(self.vector))

    def update(self, buffer: memoryview) -> None:
        """Looks at a part that has just arrived, while it lies in a cache."""
        self._hash.update(buffer)
        part = np.frombuffer(buffer, self.vector.dtype)
        start, self._seen = self._seen, self._seen + len(part)
        while self._regions and self._regions[0][0].start < self._seen:
            region, norms = self._regions[0]
            norms.append(_norm(part[max(0, region.start - start) : region.stop - start]))
            if region.stop > self._seen:
                break
            self._regions.popleft()

    def release(self) -> Travelled:
        """Gives the vector away: this object does not keep its memory any more."""
        vector, self.vector = self.vector, self.vector[:0].copy()
        return vector


class Submission(_Plain):
    """A job and its first model. ``running``: the job that runs already, which may come without its model.
    ``occupied``: why no other can begin then."""

    def __init__(
        self, job_bytes: int, *, body_bytes: int, charter: Charter, running: bytes | None, occupied: str = ""
    ) -> None:
        self.data = bytearray(job_bytes)
        self.job: Job | None = None
        self.agreed: AgreedJob | None = None
        self.vector: Vector | None = None
        self.digest = b""
        self.model = b""
        self.fault: CloisterError | None = None
        self._rest = body_bytes - job_bytes
        self._charter = charter
        self._running = running
        self._occupied = occupied

    @property
    def holds(self) -> bool:
        """Whether it has memory, of which there is enough for one. What is refused, or known, is read and forgotten."""
        return bool(self.data)

    def buffers(self) -> Iterator[memoryview]:
        """The job, which is read and checked before memory is allocated for its model."""
        yield from _chunks(memoryview(self.data))
        self.digest = jobs.job_digest(bytes(self.data))
        if self.digest != self._running:
            self._read()
        if self.vector is None:
            self.data = bytearray()
            yield from _scratch(self._rest)
            return
        yield from _chunks(_bytes(self.vector))
        if self.job is None:
            return
        try:
            check(self.vector, length=len(self.vector), what="the model that the job starts from")
            self.model = jobs.model_digest(self.job, self.vector)
        except CloisterError as fault:
            self.fault = JobError(f"the job is refused: {fault}")

    def _read(self) -> None:
        try:
            job, self.agreed = _checked(bytes(self.data), charter=self._charter)
            if self._running is not None:
                raise JobError(self._occupied)
            layout = job.layout
            if self._rest != layout.nbytes:
                raise JobError(f"the job's model has {layout.length} values, and another number of them came with it")
            self.job, self.vector = job, np.empty(layout.length, layout.dtype)
        except CloisterError as fault:
            self.fault = fault


class Resubmission(_Plain):
    """A job that an owner hands over, without a model."""

    def __init__(self, job_bytes: int, *, charter: Charter) -> None:
        self.data = bytearray(job_bytes)
        self.digest = b""
        self.read: tuple[Job, AgreedJob] | None = None
        """The job, and the charter's, if it is one of the charter's."""
        self.fault: CloisterError | None = None
        self._charter = charter

    def buffers(self) -> Iterator[memoryview]:
        """The job."""
        yield from _chunks(memoryview(self.data))
        self.digest = jobs.job_digest(bytes(self.data))
        try:
            self.read = _checked(bytes(self.data), charter=self._charter)
        except CloisterError as fault:
            self.fault = fault


class HandedOver(_Plain):
    """Records that a member hands over, which go on from ``chain``; or the newest model, of ``job``.

    ``chain`` grows by each record before there is memory for the next one. What nobody wants any more is discarded.
    """

    def __init__(self, message: Chain, *, chain: Ledger, job: Job | None) -> None:
        self.model: ModelState | None = None
        self.fault: CloisterError | None = None
        self.discarded = False
        self._chain = chain
        self._job = job
        self._rounds = message.rounds
        self._lengths = message.records
        self._sizes = (message.model, *message.state)
        self._left = sum(self._lengths) + sum(self._sizes)

    def buffers(self) -> Iterator[memoryview]:
        """The records, or the model and its state; what is left of them when they are refused or discarded."""
        yield from self._records() if self._job is None else self._parts(self._job)
        yield from _scratch(self._left)

    def _records(self) -> Iterator[memoryview]:
        chain = self._chain
        for length in self._lengths:
            if self.discarded or self.fault is not None:
                return
            self._left -= length
            record = bytearray(length)
            yield memoryview(record)
            try:
                chain.append(bytes(record))
                settled = chain.receipts[-1].cohort.sequence if chain.receipts else 0
                if chain.sequence > settled + 1:  # anyone can sign records of instances, as many as one likes
                    raise LedgerError("it goes on from an instance that released nothing")
            except LedgerError as fault:
                self.fault = fault

    def _parts(self, job: Job) -> Iterator[memoryview]:
        parts = [memoryview(bytearray(size)) for size in self._sizes]
        for chunk in itertools.chain.from_iterable(map(_chunks, parts)):
            if self.discarded:
                return
            self._left -= len(chunk)
            yield chunk
        vector, *averages = parts
        self.model = ModelState(jobs.model_digest(job, vector), vector, tuple(averages), self._rounds)


def _checked(data: bytes, *, charter: Charter) -> tuple[Job, AgreedJob]:
    """A job, and the one of the charter that it is: so the charter, which names plans, bounds models. Raises
    ``JobError``: there is none."""
    job = jobs.decode(data)
    return job, jobs.agreed(job, charter=charter)


def _start(region: tuple[slice, list[float]]) -> int:
    start: int = region[0].start
    return start


def _bytes(vector: Travelled) -> memoryview:
    return vector.data.cast("B")


def _chunks(view: memoryview) -> Iterator[memoryview]:
    return (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))


def _scratch(nbytes: int) -> Iterator[memoryview]:
    scratch = memoryview(bytearray(min(nbytes, CHUNK_BYTES)))
    while nbytes:
        buffer = scratch[:nbytes]
        nbytes -= len(buffer)
        yield buffer


def _norm(part: Travelled) -> float:
    doubles, squares = np.empty(min(BLOCK, len(part))), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks(len(part)):
            values = widened(part[block])
            wide = doubles[: len(values)]
            wide[:] = values
            # Not a dot product: BLAS would have several threads at it, which take longer to meet than to compute.
            squares += float(np.einsum("i,i", wide, wide))
    return math.sqrt(squares)


def views(records: Sequence[bytes], *vectors: Vector | None) -> tuple[memoryview, ...]:
    """Records and vectors as a frame's body."""
    return (*(memoryview(each) for each in records), *(_bytes(each) for each in vectors if each is not None))
