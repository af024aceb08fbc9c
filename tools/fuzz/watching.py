"""A session that is watched: after each step, all that it holds is compared with what may have changed.

What must hold after every step (``Fault.kind`` where it does not):

    refusal   a call that is answered with a failure has changed no byte, and the books only by the objects it lost
    mutation  one that succeeds changes only elements of the arguments that its schema says it writes
    books     the bytes that the session is charged with are those of its storages, its objects are counted
    geometry  every object has the element type, shape, strides and storage that the session believes
    values    a bool is 0 or 1
    overrun   nothing is written beside a tensor
    random    random numbers are drawn from the seed that came, or not at all
    broken    a command raises nothing
"""

from __future__ import annotations

import builtins
import ctypes
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from cloister.errors import WireError
from cloister.tensor import ops
from cloister.tensor.geometry import Geometry
from cloister.wire import sessions as m
from cloister.worker.executor import Executor
from cloister.worker.store import Entry
from cloister.worker.values import as_bytes
from tools.fuzz.fence import Fence
from tools.fuzz.steps import Step, command

MEMORY_BYTES, OBJECTS = 4 << 20, 256


class Fault(Exception):  # noqa: N818 - not an error of this program
    """Something that must hold does not."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class _Seen(NamedTuple):
    """Which object it was, and where its memory."""

    entry: int
    storage: int


class _Alone:
    """A node without data sets and without neighbours."""

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        return ()


class Watched:
    """One session of the worker's executor."""

    def __init__(self, fence: Fence, *, passed_over: frozenset[str] = frozenset()) -> None:
        alone: Any = _Alone()
        self.executor = Executor(memory_bytes=MEMORY_BYTES, objects=OBJECTS, data_sets=alone, exchange=alone)
        self._fence, self._passed_over = fence, passed_over
        self._storages: dict[int, bytes] = {}
        self._lost = 0

    @property
    def held(self) -> dict[int, Geometry]:
        """What the session believes of its objects, by id, without those that were lost."""
        return {id: entry.geometry for id, entry in self._entries()}

    def _entries(self) -> Iterator[tuple[int, Entry]]:
        """The objects, those that only a tag keeps among them. Whoever keeps one keeps its memory booked."""
        for id, entry in self.executor._store.held.items():
            if type(entry) is Entry:
                yield id, entry

    def _seen(self) -> dict[int, _Seen]:
        return {id: _Seen(builtins.id(entry), _storage(entry.tensor)) for id, entry in self._entries()}

    def do(self, step: Step) -> tuple[str, str]:
        """Takes a step: how it was answered (a failure's code, or ``ok``), and a digest of all that it changed.

        Raises:
            Fault: something does not hold.
        """
        try:
            said, values = command(step)
        except (WireError, OverflowError, TypeError):
            return "unsayable", ""
        before = self._seen()
        state = torch.get_rng_state()
        written = self._written(said)
        self._fence.fill_stack()
        try:
            outcome, text, answered = self._say(said, values)
        except Exception as fault:
            raise Fault("broken", f"{type(fault).__name__}: {fault}") from fault
        del values
        if not torch.equal(state, torch.get_rng_state()):
            raise Fault("random", "the state of the default generator has changed")
        if self._fence.broken():
            raise Fault("overrun", "memory beside a tensor was written")
        changed = self._compare(said, outcome, before, written)
        if "books" not in self._passed_over:
            self._check_books(said, outcome, before)
        self._check_objects()
        digest = hashlib.sha256(repr((sorted(changed.items()), text)).encode())
        for part in answered:
            digest.update(part)
        return outcome, digest.hexdigest()

    def _say(self, said: m.Command | m.Question, values: list[torch.Tensor]) -> tuple[str, str, list[bytes]]:
        if isinstance(said, m.Fetch | m.Search):
            answer, tensors = self.executor.answer(said)
            failure = answer if isinstance(answer, m.Failure) else None
            answered = [repr(answer).encode(), *(bytes(as_bytes(tensor)) for tensor in tensors)]
        else:
            self.executor.run([said], values)
            failure, answered = self.executor.failure(), []
        return (failure.code, failure.text, answered) if failure is not None else ("ok", "", answered)

    def _written(self, said: m.Command | m.Question) -> dict[int, list[Geometry]]:
        """What a call may write: geometries by their storage."""
        written: dict[int, list[Geometry]] = {}
        if not isinstance(said, m.Call) or said.op not in ops.optable.load():
            return written
        op, seen, held = ops.by_name(said.op), self._seen(), self.held
        named = dict(zip((param.name for param in op.params), said.args, strict=False)) | said.kwargs
        for param in op.params:
            value = named.get(param.name)
            for id in (value if isinstance(value, list | tuple) else [value]) if param.written else []:
                if type(id) is int and id in held:
                    written.setdefault(seen[id].storage, []).append(held[id])
        return written

    def _compare(
        self, said: m.Command | m.Question, outcome: str, before: dict[int, _Seen], written: dict[int, list[Geometry]]
    ) -> dict[int, str]:
        """Looks at every byte that is held: digests of what has changed, by object."""
        now: dict[int, bytes] = {}
        changed: dict[int, str] = {}
        for id, entry in self._entries():
            key = _storage(entry.tensor)
            if key not in now:
                now[key] = _bytes(entry.tensor)
            if id not in before:
                changed[id] = f"{_shown(entry.geometry)} {hashlib.sha256(now[key]).hexdigest()}"
        after = self._seen()
        gone = set(said.ids) if isinstance(said, m.Free) else set()
        for id, seen in before.items():
            if id in gone:
                continue
            if after.get(id) != seen:
                raise Fault("books", f"object {id} is another one, or gone")
            was, key = self._storages[seen.storage], seen.storage
            if now[key] == was:
                continue
            if outcome != "ok":
                raise Fault("refusal", f"refused ({outcome}), and has changed object {id}")
            if len(now[key]) != len(was):
                raise Fault("mutation", f"the storage of object {id} had {len(was)} bytes and has {len(now[key])}")
            if not _only_within(was, now[key], written.get(key, [])):
                raise Fault("mutation", f"object {id} was changed, where nothing was to be written")
            changed[id] = hashlib.sha256(now[key]).hexdigest()
        self._storages = now
        return changed

    def _check_books(self, said: m.Command | m.Question, outcome: str, before: dict[int, _Seen]) -> None:
        answer, _ = self.executor.answer(m.Count())
        assert isinstance(answer, m.Counted)
        held = set(self.held)
        lost = answer.objects - len(held)
        named = [id for id in said.outs if id] if isinstance(said, m.Call) else [1] * isinstance(said, m.Put)
        if (outcome == "ok" and lost > self._lost) or lost > self._lost + len(set(named)):
            raise Fault("books", f"{lost} objects are lost, and were {self._lost} before a call for {len(named)}")
        if outcome != "ok" and held != {id for id in before if id > 0}:
            raise Fault("refusal", f"refused ({outcome}), and the objects are others")
        self._lost = lost
        real = sum(map(len, self._storages.values()))
        if answer.nbytes != real:
            raise Fault("books", f"{answer.nbytes} bytes are counted, and {real} are held")

    def _check_objects(self) -> None:
        for id, entry in self._entries():
            real = Geometry.of(entry.tensor)
            if _described(entry.geometry) != _described(real) and "geometry" not in self._passed_over:
                raise Fault("geometry", f"object {id} is held for {_shown(entry.geometry)} and is {_shown(real)}")
            if entry.tensor.dtype is torch.bool and entry.tensor.numel() and _octets(entry.tensor).max() > 1:
                raise Fault("values", f"object {id} holds a bool that is neither 0 nor 1")


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: torch.Tensor) -> bytes:
    storage = tensor.untyped_storage()
    return ctypes.string_at(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else b""


def _described(geometry: Geometry) -> tuple[object, ...]:
    """What is to be true of a geometry: without elements, they are nowhere."""
    where = geometry.offset if geometry.nbytes else 0
    return (geometry.dtype, geometry.shape, geometry.strides, geometry.storage_bytes, where)


def _octets(bools: torch.Tensor) -> torch.Tensor:
    """The bytes of bools; ``view`` would not take a lazily negated one."""
    whole = torch.empty(0, dtype=torch.uint8)
    return whole.set_(bools.untyped_storage(), bools.storage_offset(), bools.shape, bools.stride())


def _shown(geometry: Geometry) -> str:
    return f"{geometry} of strides {geometry.strides} at {geometry.offset} in {geometry.storage_bytes} bytes"


def _only_within(was: bytes, now: bytes, written: Sequence[Geometry]) -> bool:
    """Whether two states of a storage differ only in the elements of these."""
    may = np.zeros(len(was), bool)
    for geometry in written:
        item = geometry.dtype.itemsize
        if geometry.nbytes:
            at, strides = geometry.offset * item, [stride * item for stride in geometry.strides]
            view = np.lib.stride_tricks.as_strided(may[at:], (*geometry.shape, item), (*strides, 1))
            view[...] = True
    return not bool((np.frombuffer(was, np.uint8) != np.frombuffer(now, np.uint8))[~may].any())
