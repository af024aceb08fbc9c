"""Runs a caller's commands on what its session holds. The caller is treated as hostile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from cloister.errors import (
    InteractiveRefusedError,
    MemoryLimitError,
    ObjectLimitError,
    OpRefusedError,
    WireError,
    WorkerError,
)
from cloister.tensor import ops
from cloister.tensor.geometry import DTYPE_NAMES, Geometry
from cloister.tensor.inference import Outline, outline_of
from cloister.tensor.ops import Of, Op
from cloister.wire import sessions as m
from cloister.wire.limits import FOUND
from cloister.wire.sessions import Tags
from cloister.wire.tensors import TensorSpec
from cloister.worker import bounds, forms, gaps, guards
from cloister.worker.arguments import decode, decode_named
from cloister.worker.faults import reported
from cloister.worker.seeding import seeded
from cloister.worker.store import Entry, Store
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
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        objects: int,
        data_sets: DataSets,
        exchange: Exchange,
        device: str = "cpu",
    ) -> None:
        self._store = Store(memory_bytes=memory_bytes, objects=objects)
        self._device = torch.device(device)
        self._data_sets = data_sets
        self._exchange = exchange
        self._tagged: list[tuple[tuple[str, ...], Entry]] = []
        self._trainings = Trainings(self._store, self._device)
        self._failure: m.Failure | None = None

    def allocate(self, specs: Sequence[TensorSpec]) -> list[torch.Tensor]:
        """Memory for values that are about to arrive.

        Raises:
            MemoryLimitError: more than the session may hold; nothing was allocated.
        """
        self._store.check_room(nbytes=sum(spec.nbytes() for spec in specs))
        return [empty(spec) for spec in specs]

    def run(self, commands: Sequence[m.Command], puts: Sequence[torch.Tensor]) -> None:
        """Runs commands in order; ``puts`` holds the values of the ``Put``s among them."""
        arriving = iter(puts)
        for command in commands:
            if type(command) is m.Call:
                self.call(command)
                continue
            try:
                if type(command) is m.Free:
                    self._store.free(command.ids)
                elif type(command) is m.Put:
                    self._put(command, next(arriving, None))
                elif type(command) is m.Tag:
                    self._tag(command)
                elif type(command) is m.Reach:
                    self._exchange.reach(command.peer)
                elif type(command) is m.Push:
                    self._push(command)
                elif type(command) is m.Take:
                    self._take(command)
            except WorkerError as fault:
                self.fail(fault, command)

    def call(self, call: m.Call) -> None:
        """Runs one operation."""
        try:
            self._call(call)
        except WorkerError as fault:
            self.fail(fault, call)

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
            self._failure = m.Failure(fault.code, op, site, str(fault))

    def failure(self) -> m.Failure | None:
        """The failure that is kept, which is then forgotten."""
        kept, self._failure = self._failure, None
        return kept

    def answer(self, question: m.Question) -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
        """Answers a question, with the values that go with the answer; a kept failure is the answer to any."""
        kept = self.failure()
        if kept is not None:
            return kept, []
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
            return m.Failure(fault.code, "", 0, str(fault)), []
        raise AssertionError(question)

    def close(self) -> None:
        """Forgets everything that the session held."""
        self._tagged.clear()
        self._store.clear()

    # Commands.

    def _put(self, command: m.Put, values: torch.Tensor | None) -> None:
        if values is None:
            raise MemoryLimitError("the values were refused when they arrived")
        self._store.check_room(nbytes=values.nbytes, ids=(command.id,))
        held = values.to(self._device)
        self._store.hold(command.id, held, Geometry.contiguous(held.dtype, tuple(held.shape)))

    def _call(self, call: m.Call) -> None:
        op = ops.by_name(call.op)
        args: list[Any] = []
        key: list[object] = []
        held = self._store.held
        if len(call.args) > len(op.params):
            raise OpRefusedError(f"{op} takes {len(op.params)} arguments, not {len(call.args)}")
        for param, value in zip(op.params, call.args):  # noqa: B905  - strict= costs, and they were counted
            entry = held.get(value) if param.of is Of.TENSOR and type(value) is int else None
            if type(entry) is Entry:
                args.append(entry.tensor)
                key.append(entry.geometry)
            else:
                args.append(decode(param, value, self._store, key))
        kwargs = decode_named(op, call.kwargs, self._store, key) if call.kwargs else {}
        outline = op.outlines.get(known := tuple(key)) or self._outline(op, known, args, kwargs)
        by_values = op.guard or outline.data_dependent
        nbytes = self._check_values(op, outline, args, kwargs) if by_values else outline.nbytes
        if len(call.outs) != (len(op.returns) if outline.data_dependent else len(outline.geometries)):
            raise OpRefusedError(f"{op} makes another number of tensors here than ids came for them")
        if 0 in call.outs and not all(map(_may_be_absent, call.outs, outline.geometries or call.outs)):
            raise OpRefusedError(f"{op} makes a tensor here that no id came for")
        self._store.check_room(nbytes=nbytes, ids=call.outs)
        if op.random is (call.seed is None):
            raise OpRefusedError(f"{op} {'needs a' if op.random else 'takes no'} seed")
        if op.row.factory and "device" in op.by_name:
            kwargs["device"] = self._device
        returned = self._run(op, call, args, kwargs)
        if by_values and op.name in gaps.LEAVE_GAPS:
            gaps.close(ops.arguments_by_name(op, args, kwargs), returned)
        if not op.inplace:
            self._hold(op, call, outline, returned)

    def _outline(self, op: Op, key: tuple[object, ...], args: list[Any], kwargs: dict[str, Any]) -> Outline:
        forms.check(op, args, kwargs)
        try:
            outline = outline_of(op, key, args, kwargs, Geometry.of)
        except WorkerError:
            raise
        except Exception as fault:  # noqa: BLE001 - PyTorch finds shapes in Python, which raises whatever it likes
            raise reported(fault) from None
        if not all(geometry is None or geometry.dtype in DTYPE_NAMES for geometry in outline.geometries):
            op.outlines.pop(key, None)
            raise OpRefusedError(f"{op} would make a tensor of an element type that does not travel")
        if op.views is None:  # what the store will count
            outline.nbytes = sum(geometry.storage_bytes for geometry in outline.geometries if geometry is not None)
        return outline

    def _check_values(self, op: Op, outline: Outline, args: list[Any], kwargs: dict[str, Any]) -> int:
        """What shapes alone do not tell: hostile indices, and the size of a result that depends on values, in bytes."""
        named = ops.arguments_by_name(op, args, kwargs)
        try:
            if op.guard:
                guards.check(op.name, named)
            nbytes = bounds.output_bytes(op.name, named) if outline.data_dependent else outline.nbytes
        except (RuntimeError, LookupError, ValueError, TypeError, OverflowError) as fault:
            # Arguments whose values cannot even be looked at: PyTorch would not take them either.
            raise reported(fault) from None
        if outline.data_dependent and self._store.nbytes + nbytes > self._store.memory_bytes:
            # Not how much: that would tell a value.
            raise MemoryLimitError(f"{op} could make more here than the session may hold; free tensors (del)")
        return nbytes

    def _run(self, op: Op, call: m.Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            if call.seed is None:
                return op.overload(*args, **kwargs)
            with seeded(call.seed, self._device):
                return op.overload(*args, **kwargs)
        except Exception as fault:  # noqa: BLE001 - whatever PyTorch raises for these arguments, it is the caller's
            raise reported(fault) from None

    def _hold(self, op: Op, call: m.Call, outline: Outline, returned: Any) -> None:
        of = None
        if op.views is not None:
            viewed = call.args[op.views] if op.views < len(call.args) else call.kwargs[op.params[op.views].name]
            of = self._store.entry(viewed).allocation if type(viewed) is int else None
        if op.zero_fill:
            gaps.zero(returned)
        if outline.single is not None:
            self._store.hold(call.outs[0], returned, outline.single, of=of)
            return
        fresh = _fresh(op, returned)
        geometries = outline.geometries or [None if tensor is None else Geometry.of(tensor) for tensor in fresh]
        for id, tensor, geometry in zip(call.outs, fresh, geometries, strict=True):
            if id and tensor is not None and geometry is not None:
                self._store.hold(id, tensor, geometry, of=of)

    def _tag(self, command: m.Tag) -> None:
        if len(self._tagged) >= self._store.limit:
            raise ObjectLimitError(f"the session may tag {self._store.limit} objects and has done so")
        self._tagged.append((command.tags, self._store.entry(command.id)))

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
        found = [(own, entry.tensor, entry.allocation) for own, entry in self._tagged if wanted <= set(own)]
        refusal: InteractiveRefusedError | None = None
        try:
            found += [(own, tensor, None) for own, tensor in self._data_sets.search(tags)]  # type: ignore[misc]
        except InteractiveRefusedError as fault:
            refusal = fault
        if refusal is not None and not found:
            raise refusal
        found = found[:FOUND]
        matches = []
        self._store.check_room(nbytes=0, ids=range(first, first + len(found)))
        for id, (own, tensor, allocation) in enumerate(found, first):
            geometry = Geometry.of(tensor)
            self._store.hold(id, tensor, geometry, of=allocation)
            matches.append(m.Match(own, _describe(geometry)))
        return m.Found(tuple(matches))


def _fresh(op: Op, returned: Any) -> list[torch.Tensor | None]:
    """The tensors that an operation made, flattened, without those it was given and hands back."""
    fresh: list[torch.Tensor | None] = []
    for kind, value in zip(op.returns, returned if len(op.returns) > 1 else (returned,), strict=False):
        if kind is Of.TENSOR:
            fresh.append(value)
        elif kind is Of.TENSORS:
            fresh.extend(value)
    return fresh


def _may_be_absent(id: int, geometry: object) -> bool:
    return bool(id) or geometry is None


def _describe(geometry: Geometry) -> m.StridedSpec:
    return m.StridedSpec(DTYPE_NAMES[geometry.dtype], geometry.shape, geometry.strides)
