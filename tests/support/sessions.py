"""A session spoken to as a hostile caller would: commands straight into an executor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from cloister.errors import MoveError, WorkerError
from cloister.tensor.geometry import DTYPE_NAMES
from cloister.wire import sessions as m
from cloister.wire.tensors import TensorSpec
from cloister.worker.executor import Executor


class NoDataSets:
    """An owner without data sets."""

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        return ()


class NoExchange:
    """A worker that reaches no other."""

    def reach(self, peer: str) -> None:
        pass

    def push(self, peer: str, ticket: bytes, tensors: Sequence[torch.Tensor]) -> None:
        raise MoveError("no other worker is known")

    def take(self, peer: str, ticket: bytes, specs: Sequence[TensorSpec], into: Sequence[torch.Tensor]) -> None:
        raise MoveError("nothing was pushed")

    def decline(self, peer: str, ticket: bytes, text: str) -> None:
        pass


class Session:
    """An executor, and the means to say anything to it."""

    def __init__(self, *, memory_bytes: int = 1 << 20, objects: int = 100) -> None:
        self.executor = Executor(
            memory_bytes=memory_bytes, objects=objects, data_sets=NoDataSets(), exchange=NoExchange()
        )
        self.numbers = itertools.count(1)

    def put(self, tensor: torch.Tensor) -> int:
        """Holds a tensor and gives its id."""
        id = next(self.numbers)
        self.executor.run([m.Put(id, TensorSpec(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)))], [tensor.clone()])
        return id

    def call(
        self, op: str, *args: Any, outs: Sequence[int] | int = 1, seed: int | None = None, **kwargs: Any
    ) -> m.Failure | None:
        """Runs one operation; what went wrong, if anything did. ``outs``: the ids, or how many new ones."""
        if isinstance(outs, int):
            outs = [next(self.numbers) for _ in range(outs)]
        self.executor.run([m.Call(f"aten::{op}", list(args), kwargs, tuple(outs), seed, 0)], [])
        return self.executor.failure()

    def made(self, op: str, *args: Any, **kwargs: Any) -> int:
        """Runs an operation that makes one tensor and gives its id."""
        id = next(self.numbers)
        failure = self.call(op, *args, outs=[id], **kwargs)
        assert failure is None, failure
        return id

    def get(self, id: int) -> torch.Tensor:
        """An object's values."""
        answer, values = self.executor.answer(m.Fetch((id,)))
        if isinstance(answer, m.Failure):
            raise WorkerError.from_code(answer.code)(answer.text)
        return values[0]

    def free(self, *ids: int) -> None:
        """Forgets objects."""
        self.executor.run([m.Free(ids)], [])

    @property
    def counted(self) -> m.Counted:
        """What it holds."""
        answer, _ = self.executor.answer(m.Count())
        assert isinstance(answer, m.Counted), answer
        return answer
