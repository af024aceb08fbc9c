"""The caller's end of a worker: where pointers say their values live.

Commands are queued and leave in batches; nothing waits. Only a question waits for its answer, and before it is
asked, what is queued for every other worker leaves too, so that all of them compute meanwhile.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import WeakSet

import torch

from cloister.errors import MessageError, NetworkError, WorkerError
from cloister.tensor import call_sites, forks
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES, Geometry
from cloister.wire import sessions as m
from cloister.wire.limits import COMMANDS, FOUND, LIST_ITEMS
from cloister.wire.tensors import TensorSpec

_BATCH_COMMANDS: Final = 64
_BATCH_BYTES: Final = 1 << 18
"""A batch leaves once it holds this many commands, or makes or carries this many bytes: then there is work worth
starting."""

_Guard: Final[Any] = torch._C._ForceDispatchKeyGuard
_INCLUDED: Final = torch._C._dispatch_tls_local_include_set()
_EXCLUDED: Final = torch._C._dispatch_tls_local_exclude_set()
"""What PyTorch takes part in and leaves out while no operation is under way."""

A = TypeVar("A")


class Channel(Protocol):
    """How commands reach a worker: in process or over a network."""

    fingerprint: str
    """How another worker names this one."""
    network: str
    """Workers of one network can push values to each other."""

    def post(self, commands: list[m.Command], puts: list[torch.Tensor]) -> m.Failure | None:
        """Has the commands run, now or soon; ``puts`` holds the values of the ``Put``s among them, in order."""

    def ask(
        self,
        commands: list[m.Command],
        puts: list[torch.Tensor],
        question: m.Question,
        expected: Sequence[TensorSpec] = (),
    ) -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
        """Has the commands run, then the question answered. ``expected`` are the only values that may come with the
        answer."""

    def close(self) -> None:
        """Ends the session; the worker frees what it held."""

    def abandon(self) -> None:
        """Lets go of a channel that another process opened and this one inherited, without a word to the worker."""


class LocalSide:
    """This process, as somewhere to move to: ``hook.local_worker``. Moving there is ``get``."""

    id = "me"

    def __repr__(self) -> str:
        return "<LocalSide>"


class RemoteObject:
    """One object at a worker. When the last pointer to it is gone, it is freed there with the next message."""

    __slots__ = ("__weakref__", "id", "location")

    def __init__(self, location: Location, id: int) -> None:
        self.location = location
        self.id = id

    def __del__(self) -> None:
        self.location._forgotten.append(self.id)


class Location:
    """A worker, as a caller sees it. Made by ``VirtualWorker`` or ``cloister.connect``.

    One location is one session: its objects are seen through it alone. It may be used from several threads, and in
    the process that opened it: in one that inherited it by ``fork``, whatever would take its lock raises
    InheritedWorkerError.
    """

    def __init__(self, name: str, channel: Channel, *, batch_commands: int = _BATCH_COMMANDS) -> None:
        self.id = name
        self._channel = channel
        self._batch_commands = min(batch_commands, COMMANDS - 1)
        self._ids = itertools.count(1)
        self._lock: threading.RLock | forks.Inherited = threading.RLock()
        self._commands: list[m.Command] = []
        self._puts: list[torch.Tensor] = []
        self._queued_bytes = 0
        self._forgotten: deque[int] = deque()
        self._tags: dict[int, tuple[str, ...]] = {}
        _locations.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def fingerprint(self) -> str:
        """How another worker names this one: the SHA-256 of its public key, ``sha256:...``."""
        return self._channel.fingerprint

    @property
    def network(self) -> str:
        """Workers of one network can push values to each other."""
        return self._channel.network

    def new_object(self) -> RemoteObject:
        """An id that was never used, and the object that it will name."""
        return RemoteObject(self, next(self._ids))

    def site(self) -> int:
        """The number of the caller's line that is being run, should the worker have to name it in an error."""
        return call_sites.current(above=4)  # this, dispatch.issue and what calls that are ours

    def post(self, command: m.Command, *, nbytes: int = 0) -> None:
        """Queues a command; ``nbytes`` is what it makes the worker produce."""
        with self._lock:
            self._commands.append(command)
            self._queued_bytes += nbytes
            if len(self._commands) >= self._batch_commands or self._queued_bytes >= _BATCH_BYTES:
                self.flush()

    def put(self, tensor: torch.Tensor) -> RemoteObject:
        """Sends a local tensor's values, and only those, never the rest of its storage.

        Raises:
            MessageError: an element type or a layout that does not travel.
        """
        values = tensor.detach()
        if values.layout is not torch.strided or values.dtype not in DTYPE_NAMES:
            raise MessageError(f"a {values.layout} tensor of {values.dtype} does not travel; convert it before sending")
        values = values.resolve_conj().resolve_neg().to("cpu").contiguous()
        made = self.new_object()
        with self._lock:
            leaves_now = values.nbytes >= _BATCH_BYTES or self._batch_commands == 1
            # What is queued must not change when the caller writes into its tensor.
            self._puts.append(values if leaves_now or values.data_ptr() != tensor.data_ptr() else values.clone())
            self.post(
                m.Put(made.id, TensorSpec(DTYPE_NAMES[values.dtype], tuple(values.shape))),
                nbytes=max(values.nbytes, _BATCH_BYTES if leaves_now else 0),
            )
        return made

    def flush(self) -> None:
        """Lets everything that is queued leave, without waiting."""
        with self._lock:
            commands, puts = self._take()
            if commands:
                with as_elsewhere():
                    failure = self._channel.post(commands, puts)
                if failure is not None:
                    raise self._error(failure)

    def ask(
        self, question: m.Question, answer: type[A], *, expected: Sequence[TensorSpec] = ()
    ) -> tuple[A, list[torch.Tensor]]:
        """Asks, after everything that is queued, and waits for the answer, with the ``expected`` values.

        Raises:
            WorkerError: the first thing that went wrong at the worker since the last answer.
            NetworkError: the worker cannot be reached or does not answer.
        """
        for other in list(_locations):
            if other is not self and other._commands:
                other._flush_for_another()
        with self._lock, as_elsewhere():
            commands, puts = self._take()
            got, values = self._channel.ask(commands, puts, question, expected)
        if isinstance(got, m.Failure):
            raise self._error(got)
        if type(got) is not answer:
            raise MessageError(f"{self.id} answered a question with {type(got).__name__}")
        return cast(A, got), values

    def fetch(self, objects: Sequence[RemoteObject], geometries: Sequence[Geometry]) -> list[torch.Tensor]:
        """The values of several objects of these geometries, in one round trip."""
        values: list[torch.Tensor] = []
        for start in range(0, len(objects), LIST_ITEMS):
            part = slice(start, start + LIST_ITEMS)
            specs = [TensorSpec(DTYPE_NAMES[geometry.dtype], geometry.shape) for geometry in geometries[part]]
            _, got = self.ask(m.Fetch(tuple(obj.id for obj in objects[part])), m.Values, expected=specs)
            values += got
        return values

    def describe(self, objects: Sequence[RemoteObject]) -> list[Geometry]:
        """The shapes of objects whose shapes depended on values."""
        got, _ = self.ask(m.Describe(tuple(obj.id for obj in objects)), m.Described)
        if len(got.specs) != len(objects):
            raise MessageError(f"{self.id} described {len(got.specs)} objects where {len(objects)} were asked for")
        return [geometry_from(spec) for spec in got.specs]

    def find(self, tags: Sequence[str]) -> list[tuple[RemoteObject, Geometry]]:
        """The tensors at the worker that carry all of ``tags``."""
        first = next(self._ids)
        self._ids = itertools.count(first + FOUND)
        got, _ = self.ask(m.Search(tuple(tags), first), m.Found)
        self._tags.update((first + i, match.tags) for i, match in enumerate(got.matches))
        return [(RemoteObject(self, first + i), geometry_from(match.spec)) for i, match in enumerate(got.matches)]

    def tags_of(self, obj: RemoteObject) -> tuple[str, ...]:
        """The tags that an object carries, as far as it was given or found under them here."""
        return self._tags.get(obj.id, ())

    def tag(self, obj: RemoteObject, tags: tuple[str, ...]) -> None:
        """Has an object carry these tags and no others. An owner's data set keeps its own."""
        if tags != self.tags_of(obj):
            self.post(m.Tag(obj.id, tags))
            self._tags[obj.id] = tags

    def count(self) -> m.Counted:
        """How many objects this session holds at the worker, and the bytes of memory behind them."""
        got, _ = self.ask(m.Count(), m.Counted)
        return got

    def close(self) -> None:
        """Ends the session; what it held is freed. In a process that inherited it there is nothing to end."""
        if not self.inherited:
            with self._lock:
                self._commands, self._puts = [], []
                self._channel.close()
        _locations.discard(self)

    @property
    def inherited(self) -> bool:
        """Whether another process opened this session, and this one inherited it by ``fork``."""
        return isinstance(self._lock, forks.Inherited)

    def _take(self) -> tuple[list[m.Command], list[torch.Tensor]]:
        # Every use of an object was queued before its last pointer went, so its id is freed after them.
        forgotten: list[int] = []
        while self._forgotten and len(forgotten) < LIST_ITEMS:
            forgotten.append(self._forgotten.popleft())
            if self._tags:
                self._tags.pop(forgotten[-1], None)
        if forgotten:
            self._commands.append(m.Free(tuple(forgotten)))
        taken = self._commands, self._puts
        self._commands, self._puts, self._queued_bytes = [], [], 0
        return taken

    def _flush_for_another(self) -> None:
        # What goes wrong here is not the other's business; the channel remembers it for this worker's next use.
        with suppress(NetworkError):
            self.flush()

    def _error(self, failure: m.Failure) -> WorkerError:
        where = (
            f" ({failure.op} at worker {self.id}, asked for at {call_sites.describe(failure.site)})"
            if failure.op
            else ""
        )
        return WorkerError.from_code(failure.code)(f"{failure.text}{where}")


def as_elsewhere() -> Any:
    """Work as in a process of its own, although PyTorch is in the middle of something here: of an operation on
    pointers, for which it leaves out parts of itself (a conjugated tensor would be computed with as if it were not), or
    of a sent module's ``forward`` (the memory for an answer would be made at the worker)."""
    return _Guard(_INCLUDED, _EXCLUDED)


_locations: WeakSet[Location] = WeakSet()


def _leave_to_parent() -> None:
    global _locations
    inherited, _locations = list(_locations), WeakSet()
    for location in inherited:
        location._lock = forks.Inherited(location.id)
    for location in inherited:
        with suppress(OSError):
            location._channel.abandon()


forks.in_every_child(_leave_to_parent)


def geometry_from(spec: m.StridedSpec) -> Geometry:
    """The geometry of an object that a worker described.

    Raises:
        MessageError: an element type that does not travel, or strides that do not belong to the shape.
    """
    if spec.dtype not in DTYPES or len(spec.strides) != len(spec.shape):
        raise MessageError("a worker described an object that cannot be")
    dtype = DTYPES[spec.dtype]
    extent = 1 + sum((size - 1) * stride for size, stride in zip(spec.shape, spec.strides, strict=True))
    nbytes = 0 if 0 in spec.shape else extent * dtype.itemsize
    return Geometry.make(dtype, spec.shape, spec.strides, storage_bytes=nbytes)
