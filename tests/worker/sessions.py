"""One executor, spoken to as its process speaks to it, so that a test can say what no honest caller would."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from cloister.errors import MoveError
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.wire.tensors import TensorSpec
from cloister.worker.executor import Executor
from cloister.worker.values import spec_of

MIB = 1 << 20


class NoDataSets:
    """A node without data sets."""

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        return ()


class OneDataSet:
    """A node with one data set."""

    def __init__(self, tags: Sequence[str], tensor: torch.Tensor) -> None:
        self.tags, self.tensor = tuple(tags), tensor

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        return [(self.tags, self.tensor)] if set(tags) <= set(self.tags) else []


class Exchange:
    """Keeps what is pushed, and hands out what a test has laid there."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, bytes, list[torch.Tensor]]] = []
        self.arriving: list[torch.Tensor] = []
        self.declined: list[str] = []

    def reach(self, peer: str) -> None:
        pass

    def push(self, peer: str, ticket: bytes, tensors: Sequence[torch.Tensor]) -> None:
        self.pushed.append((peer, ticket, list(tensors)))

    def take(self, peer: str, ticket: bytes, specs: Sequence[TensorSpec], into: Sequence[torch.Tensor]) -> None:
        if tuple(map(spec_of, self.arriving)) != tuple(specs):
            raise MoveError("nothing of that kind was pushed with this ticket")
        for values, arrived in zip(into, self.arriving, strict=True):
            values.copy_(arrived)

    def decline(self, peer: str, ticket: bytes, text: str) -> None:
        self.declined.append(text)


class Session:
    """One session: its commands go through their bytes, as they do between processes."""

    def __init__(self, *, memory_bytes: int = 64 * MIB, objects: int = 1000, data_sets: Any = None) -> None:
        self.exchange = Exchange()
        self.executor = Executor(
            memory_bytes=memory_bytes, objects=objects, data_sets=data_sets or NoDataSets(), exchange=self.exchange
        )
        self._ids = itertools.count(1)

    def new_id(self) -> int:
        """An id that was never used."""
        return next(self._ids)

    def do(self, *commands: m.Command, puts: Sequence[torch.Tensor] = ()) -> m.Failure | None:
        """Runs commands; returns the failure that the next answer would be."""
        self.executor.run(_through_bytes(commands), list(puts))
        return self.executor.failure()

    def put(self, tensor: torch.Tensor) -> int:
        """Sends values; returns their id."""
        id = self.new_id()
        failure = self.do(m.Put(id, spec_of(tensor)), puts=[tensor.clone()])
        assert failure is None, failure
        return id

    def fault(
        self, op: str, /, *args: Any, outs: int | Sequence[int] = 1, seed: int | None = None, **kwargs: Any
    ) -> m.Failure:
        """Runs an operation that must fail; returns the failure."""
        ids = [self.new_id() for _ in range(outs)] if isinstance(outs, int) else outs
        failure = self.do(m.Call(op, list(args), kwargs, tuple(ids), seed, 7))
        assert failure is not None, f"{op} did not fail"
        assert (failure.op, failure.site) == (op, 7)
        return failure

    def call(self, op: str, /, *args: Any, outs: int = 1, seed: int | None = None, **kwargs: Any) -> Any:
        """Runs an operation that must not fail; returns the id of what it made, or the ids."""
        ids = [self.new_id() for _ in range(outs)]
        failure = self.do(m.Call(op, list(args), kwargs, tuple(ids), seed, 7))
        assert failure is None, failure
        return ids[0] if outs == 1 else ids

    def free(self, *ids: int) -> None:
        """Frees objects."""
        assert self.do(m.Free(ids)) is None

    def fetch(self, id: int) -> torch.Tensor:
        """An object's values."""
        answer, values = self.executor.answer(m.Fetch((id,)))
        assert isinstance(answer, m.Values), answer
        return values[0].clone()

    def count(self) -> tuple[int, int]:
        """Objects and bytes that the session holds."""
        answer, _ = self.executor.answer(m.Count())
        assert isinstance(answer, m.Counted)
        return answer.objects, answer.nbytes


def _through_bytes(commands: Sequence[m.Command]) -> list[m.Command]:
    decoded: list[m.Command] = m.decode(Kind.BATCH, encode(m.Batch(list(commands)))).commands
    return decoded
