"""Runs a caller's commands on what its session holds. The caller is treated as hostile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from cloister.errors import (
    InteractiveRefusedError,
    MemoryLimitError,
    OpRefusedError,
    WireError,
    WorkerError,
)
from cloister.tensor import results
from cloister.tensor.geometry import DTYPE_NAMES, Geometry, check_extents
from cloister.wire import sessions as m
from cloister.wire.limits import FOUND, TEXT_CHARS
from cloister.wire.sessions import Tags
from cloister.wire.tensors import TensorSpec
from cloister.worker import calls
from cloister.worker.store import Store
from cloister.worker.torch_errors import reported
from cloister.worker.training import unheard
from cloister.worker.trainings import Trainings
from cloister.worker.values import empty, is_sendable, sendable, spec_of


class DataSets(Protocol):
    """The owner's registered data sets, as one session sees them."""

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        """Those that carry all of ``tags``; raises InteractiveRefusedError where only closed ones match."""


class Exchange(Protocol):
    """How values go from worker to worker."""

    def reach(self, peer: str) -> None:
        """Has a connection to ``peer`` ready for a push; raises MoveError."""

    def push(self, peer: str, ticket: bytes, tensors: Sequence[torch.Tensor]) -> None:
        """Gives tensors to the session at ``peer`` that waits for this ticket; raises MoveError."""

    def take(self, peer: str, ticket: bytes, specs: Sequence[TensorSpec], into: Sequence[torch.Tensor]) -> None:
        """Receives what ``peer`` pushes with this ticket; raises MoveError."""

    def decline(self, peer: str, ticket: bytes, text: str) -> None:
        """Tells ``peer`` why what it pushes with this ticket is not taken."""


class Executor:
    """One session: its objects and the commands that act on them.

    Nothing that a command does wrong ends the session: the first failure is kept and is what the next question is
    answered with, and the objects that the failed command would have made are noted as lost.

    Args:
        begin: is told of everything before it begins: an operation's name, a command's or question's tag, ``STEP``.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        objects: int,
        data_sets: DataSets,
        exchange: Exchange,
        device: str = "cpu",
        begin: Callable[[str], None] = unheard,
    ) -> None:
        self._begin = begin
        self._store = Store(memory_bytes=memory_bytes, objects=objects)
        self._device = torch.device(device)
        self._data_sets = data_sets
        self._exchange = exchange
        self._trainings = Trainings(self._store, self._device, begin)
        self._failure: m.Failure | None = None

    def allocate(self, specs: Sequence[TensorSpec]) -> list[torch.Tensor]:
        """Memory for values that are about to arrive.

        Raises:
            MemoryLimitError, OpRefusedError: more than the session may hold; nothing was allocated.
        """
        for spec in specs:
            check_extents(spec.shape)
        self._store.check_room(nbytes=sum(spec.nbytes() for spec in specs))
        try:
            return [empty(spec) for spec in specs]
        except Exception as fault:  # noqa: BLE001 - there is no memory for it after all
            raise reported(fault) from None

    def run(self, commands: Sequence[m.Command], puts: Sequence[torch.Tensor]) -> None:
        """Runs commands in order; ``puts`` holds the values of the ``Put``s among them."""
        arriving, begin = iter(puts), self._begin
        for command in commands:
            begin(command.op if type(command) is m.Call else m.tag_of(command))
            try:
                if type(command) is m.Call:
                    calls.run(self._store, self._device, command)
                elif type(command) is m.Free:
                    self._store.free(command.ids)
                elif type(command) is m.Put:
                    self._put(command, next(arriving, None))
                elif type(command) is m.Tag:
                    self._store.tag(command.id, command.tags)
                elif type(command) is m.Reach:
                    self._exchange.reach(command.peer)
                elif type(command) is m.Push:
                    self._push(command)
                elif type(command) is m.Take:
                    self._take(command)
            except WorkerError as fault:
                self.fail(fault, command)

    def call(self, call: m.Call) -> m.Failure | None:
        """Runs one operation; what went wrong is returned, and not kept."""
        try:
            calls.run(self._store, self._device, call)
        except WorkerError as fault:
            self.fail(fault, call)
            return self.failure()
        return None

    def fail(self, fault: WorkerError, command: m.Command | None = None) -> None:
        """Keeps a failure for the next answer, unless one is kept already."""
        op, site = "", 0
        match command:
            case m.Call(op=op, site=site, outs=outs):
                self._store.lose(outs, fault)
            case m.Take(site=site, ids=ids):
                op = "move"
                self._store.lose(ids, fault)
            case m.Push(site=site) | m.Reach(site=site):
                op = "move"
            case m.Put(id=id):
                op = "send"
                self._store.lose((id,), fault)
        if self._failure is None:
            self._failure = m.Failure(fault.code, op, site, str(fault)[:TEXT_CHARS])

    def failure(self) -> m.Failure | None:
        """The failure that is kept, which is then forgotten."""
        kept, self._failure = self._failure, None
        return kept

    def answer(self, question: m.Question) -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
        """Answers a question, with the values that go with the answer; a kept failure is the answer to any."""
        kept = self.failure()
        if kept is not None:
            return kept, []
        self._begin(m.tag_of(question))
        try:
            match question:
                case m.Fetch(ids):
                    values = self._sendable(ids)
                    return m.Values(tuple(map(spec_of, values))), values
                case m.Describe(ids):
                    return m.Described(tuple(_describe(self._store.entry(id).geometry) for id in ids)), []
                case m.Search(tags, first):
                    return self._search(tags, first), []
                case m.Count():
                    return m.Counted(len(self._store), self._store.nbytes), []
                case m.Train():
                    return self._trainings.train(question)
        except WorkerError as fault:
            return m.Failure(fault.code, "", 0, str(fault)[:TEXT_CHARS]), []
        raise AssertionError(question)

    @property
    def objects(self) -> int:
        """How many objects it holds."""
        return len(self._store)

    @property
    def nbytes(self) -> int:
        """The bytes of memory behind them."""
        return self._store.nbytes

    def close(self) -> None:
        """Forgets everything that the session held."""
        self._store.clear()

    # Commands.

    def _put(self, command: m.Put, values: torch.Tensor | None) -> None:
        if values is None:
            raise MemoryLimitError("the values were refused when they arrived")
        self._store.check_room(nbytes=values.nbytes, ids=(command.id,))
        held = values.to(self._device)
        geometry = Geometry.contiguous(held.dtype, tuple(held.shape))
        if not results.fits(held, geometry, held.untyped_storage()):
            held = results.laid_out(geometry, self._device).copy_(held)
        self._store.hold(command.id, held, geometry)

    def _sendable(self, ids: Sequence[int]) -> list[torch.Tensor]:
        """The values of objects; one whose memory cannot be sent as it is gets copied, and needs room for that."""
        tensors = [self._store.entry(id).tensor for id in ids]
        self._store.check_room(nbytes=sum(tensor.nbytes for tensor in tensors if not is_sendable(tensor)))
        try:
            return [sendable(tensor) for tensor in tensors]
        except Exception as fault:  # noqa: BLE001 - a copy for which there is no memory after all
            raise reported(fault) from None

    def _push(self, command: m.Push) -> None:
        self._exchange.push(command.peer, command.ticket, self._sendable(command.ids))

    def _take(self, command: m.Take) -> None:
        if len(command.ids) != len(command.specs):
            raise OpRefusedError("a move names as many ids as tensors")
        try:
            self._store.check_room(nbytes=0, ids=command.ids)
            into = self.allocate(command.specs)
        except (WireError, WorkerError) as fault:
            self._exchange.decline(command.peer, command.ticket, str(fault))
            if isinstance(fault, WorkerError):
                raise
            raise OpRefusedError(str(fault)) from None
        self._exchange.take(command.peer, command.ticket, command.specs, into)
        for id, values in zip(command.ids, into, strict=True):
            held = values.to(self._device)
            self._store.hold(id, held, Geometry.contiguous(held.dtype, tuple(held.shape)))

    def _search(self, tags: Tags, first: int) -> m.Found:
        wanted = set(tags)
        found = [(own, self._store.entry(id).tensor) for id, own in self._store.tags.items() if wanted <= set(own)]
        refusal: InteractiveRefusedError | None = None
        try:
            found += self._data_sets.search(tags)
        except InteractiveRefusedError as fault:
            refusal = fault
        if refusal is not None and not found:
            raise refusal
        found = found[:FOUND]
        matches = []
        self._store.check_room(nbytes=0, ids=range(first, first + len(found)))
        for id, (own, tensor) in enumerate(found, first):
            geometry = Geometry.of(tensor)
            self._store.hold(id, tensor, geometry)
            matches.append(m.Match(own, _describe(geometry)))
        return m.Found(tuple(matches))


def _describe(geometry: Geometry) -> m.StridedSpec:
    return m.StridedSpec(DTYPE_NAMES[geometry.dtype], geometry.shape, geometry.strides)
