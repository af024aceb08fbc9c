"""Training beside the listener: one child process, which gets a model each round and gives back its update.

The listener imports no torch. It talks to the child over a link, which it can wait for together with everything else.
To abandon a training ends the child and starts another one. So does a job on another data set: a child can read the one
that it was given, and nothing else (``cloister.node.confinement``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from time import monotonic
from typing import Final, NamedTuple

import msgspec

from cloister.errors import DataSetError, WireError
from cloister.ledger.sync import Values
from cloister.net.polling import READABLE, Wakeup, wait
from cloister.node.config import StudyData, TrainingLimits
from cloister.node.cpu import Clock, Meter, Over
from cloister.node.ipc import fill
from cloister.node.process import Process
from cloister.node.study.base_files import BaseFiles, Mapped
from cloister.node.study.effects import Draw, Train
from cloister.wire.frames import Kind
from cloister.wire.layout import Half
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.optimizers import Optimizer
from cloister.worker.data.salts import Seeds

_MODULE: Final = "cloister.node.study.trainer_process"
_PACE_S: Final = 60.0
"""The longest pause of a child within a message, or before it takes one that it waits for."""


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data set."""

    name: str
    path: str
    columns: tuple[str, ...]


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All files that a child may read. It is told of them when there is something to train, by the rest of its standard
    input."""

    data: Columns
    models: tuple[Mapped, ...]


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The child's settings, which it reads at its start as a line of its standard input."""

    listener: int
    memory_bytes: int
    device: str
    threads: int


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The order to train: the header of an ASK frame, whose body is the job, unless the child has it, the model, and
    the buffers that stay here."""

    round: int
    job: int
    """The length of the job in the body, in bytes; 0: the job is that of the order before."""
    optimizer: Optimizer
    batch_size: int
    steps: int
    proximal: float
    seeds: Seeds
    clip: float
    clip_buffers: float | None
    half: Half | None
    least: int
    home: int
    """The length of the buffers in the body, in bytes; 0: they are those of the job."""
    home_bytes: int
    """The length of the new ones behind the result."""
    hidden: bool
    draw: Draw | None


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a training: the header of an ANSWER, whose body is the update's vector, and the buffers that stay
    here."""

    examples: int
    norms: tuple[float, float]
    metrics: dict[str, float]


class Trained(NamedTuple):
    """A training that is done."""

    round: int
    vector: Values
    examples: int
    norms: tuple[float, float]
    """Of its parameters and of its buffers."""
    metrics: dict[str, float]
    home: Values = b""
    """The buffers that stay here."""


class Failed(NamedTuple):
    """A training that failed, and why."""

    round: int
    text: str


class Trainer:
    """Trains in a child process, one round at a time. Used by one thread, which lasts as long as the node."""

    def __init__(
        self, limits: TrainingLimits, data: Sequence[StudyData], *, models: BaseFiles, listener: int, closing: Wakeup
    ) -> None:
        self._assignment = Assignment(
            listener=listener,
            memory_bytes=limits.memory_bytes,
            device=limits.device,
            threads=limits.threads,
        )
        self._limits = limits
        self._data_sets = {each.name: Columns(each.name, str(each.path), each.columns) for each in data}
        self._closing = closing
        self._process: Process | None = None
        self._clock: Clock | None = None
        self._meter: Meter | None = None
        self._ready = False
        self._models = models
        self._given: Given | None = None
        self._job = b""  # what the child has
        self._order: Train | None = None
        self._sent = False
        self._due = 0.0
        self._until = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> Failed | None:
        """Starts a child, unless there is one. It takes a few seconds to be ready."""
        if self._process is not None:
            return None
        try:
            process = Process.start(_MODULE, links=1)
        except OSError as fault:
            return self._fail(f"training cannot be started here: {fault.strerror or fault}")
        process.tell(msgspec.json.encode(self._assignment) + b"\n")
        process.links[0].wait = self._wait
        self._process, self._ready, self._given, self._job = process, False, None, b""
        return None

    def train(self, order: Train) -> Failed | None:
        """Begins the training of a round; ``receive`` gives its result, once ``fileno`` is readable."""
        self.abandon()
        self._order, self._sent, self._until = order, False, monotonic() + order.agreed.max_s
        return self.start() or self._send()

    def abandon(self) -> None:
        """Ends a training that is under way, and starts a new child."""
        if self._order is not None and self._sent:
            self.close()
            self.start()
        self._order = None

    def fileno(self) -> int | None:
        """The descriptor to wait for, while there is a child."""
        return None if self._process is None else self._process.links[0].fileno()

    @property
    def due(self) -> float | None:
        """The moment (``time.monotonic``) at which ``look`` has to be called; None where nothing is trained."""
        if self._order is None or self._process is None:
            return None
        return min(self._due, self._until) if self._sent else self._until

    def look(self) -> Failed | None:
        """Ends a training that has taken longer than the job's ``max_s``, or used more CPU time than it may."""
        if self._order is None or self._process is None:
            return None
        if monotonic() >= self._until:
            max_s = self._order.agreed.max_s
            self.close()
            return self._fail(
                f"the training took longer than the {max_s} s that the job gives owners for a round (max_s)"
            )
        if not self._sent or self._clock is None or self._meter is None:
            return None
        link, reading_s = self._process.links[0], self._clock.read()
        over = None if reading_s is None else self._meter.look(reading_s, call=link.slate.read().turn)
        self._due = monotonic() + self._meter.again_s
        if over is None:
            return None
        limit, key = (
            (self._limits.step_cpu_s, "step_cpu") if over is Over.CALL else (self._limits.round_cpu_s, "round_cpu")
        )
        self.close()
        what = "one step" if over is Over.CALL else "a round"
        return self._fail(
            f"the training took more than the {limit:g} s of CPU time that {what} may ([training], {key})"
        )

    def receive(self) -> Trained | Failed | None:
        """Receives the child's next message; None if that only says that it is ready."""
        if self._process is None:
            return None
        link = self._process.links[0]
        try:
            frame = link.receive()
            if not self._ready:
                self._ready = True
                return self._send()
            order = self._order
            if order is None or not self._sent:
                raise WireError("it speaks unasked")
            if frame.kind is Kind.FAILURE:
                self._order = None
                return Failed(order.round, frame.header.decode("utf-8", "replace")[:TEXT_CHARS])
            if frame.kind is not Kind.ANSWER or frame.body_bytes != order.nbytes + order.home_bytes:
                raise WireError("it answers with a vector of another length than is wanted")
            result = msgspec.msgpack.decode(frame.header, type=Result)
            vector, filled = memoryview(bytearray(frame.body_bytes)), 0
            for piece in link.pieces(frame.body_bytes):
                vector[filled : filled + len(piece)] = piece
                filled += len(piece)
        except (EOFError, WireError, msgspec.MsgspecError, OSError):
            return self._bury()
        self._order = None
        update, home = vector[: order.nbytes].toreadonly(), bytes(vector[order.nbytes :])
        return Trained(order.round, update, result.examples, result.norms, result.metrics, home)

    def close(self) -> None:
        """Ends the child. May be called twice."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _send(self) -> Failed | None:
        order = self._order
        if self._process is None or not self._ready or order is None:
            return None
        try:
            given = Given(self._data_sets[order.data], self._models.those(order.files))
        except DataSetError as fault:
            return self._fail(str(fault))
        if self._given not in (None, given):
            self.close()
            return self.start()  # which sends it, once it is ready
        if self._given is None:
            self._process.tell(msgspec.json.encode(given), last=True)
        link = self._process.links[0]
        known = hashlib.sha256(order.job).digest()
        job = b"" if known == self._job else order.job
        agreed = order.agreed
        header = Order(
            round=order.round,
            job=len(job),
            optimizer=agreed.optimizer,
            batch_size=agreed.batch_size,
            steps=agreed.steps,
            proximal=agreed.proximal,
            seeds=order.seeds,
            clip=order.clip,
            clip_buffers=order.clip_buffers,
            half=agreed.half,
            least=order.least,
            home=len(order.home),
            home_bytes=order.home_bytes,
            hidden=order.hidden,
            draw=order.draw,
        )
        try:
            parts = [job, order.model, order.home]
            body_bytes = sum(map(len, parts))
            link.send(Kind.ASK, msgspec.msgpack.encode(header), body_bytes)
            fill(link.buffers(body_bytes), parts)
        except EOFError:
            return self._bury()
        self._given, self._job, self._sent = given, known, True
        self._clock = Clock(self._process.pid)
        limits = self._limits
        began_s = self._clock.read() or 0.0
        self._meter = Meter(call_s=limits.step_cpu_s, all_s=limits.round_cpu_s, began_s=began_s)
        self._due = monotonic() + self._meter.again_s
        return None

    def _bury(self) -> Failed | None:
        if self._process is None:
            return None
        reason = "the node closes" if self._closing.rung else self._process.reason()
        self.close()
        return self._fail(f"the process that trained has ended: {reason}")

    def _fail(self, text: str) -> Failed | None:
        order, self._order = self._order, None
        return None if order is None else Failed(order.round, text)

    def _wait(self, descriptor: int, events: int) -> None:
        watched = {descriptor: events, self._closing.fileno(): READABLE}
        if descriptor not in wait(watched, until=monotonic() + _PACE_S):
            raise EOFError("the node closes, or the child stopped in the middle of what it says")
