"""``VirtualWorker``: a worker in this very process, for learning, testing and simulating."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Final

import torch
from msgspec.structs import replace

from cloister.errors import MoveError, WorkerError
from cloister.tensor import call_sites
from cloister.tensor.hook import TorchHook, install
from cloister.tensor.session import as_elsewhere
from cloister.tensor.worker import Worker
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.wire.tensors import TensorSpec
from cloister.worker.executor import Executor
from cloister.worker.values import spec_of

_NETWORK: Final = "in process"
_FORGOTTEN: Final = 64
"""So many objects that nothing points to any more are freed together."""
_LARGE: Final = 1 << 20
"""Sooner, if so many bytes might be held by them: as many each as are made now."""
_numbers = itertools.count(1)
_pushed: dict[tuple[str, str, bytes], list[torch.Tensor]] = {}


class VirtualWorker(Worker):
    """A worker in this process.

    It runs the same commands in the same way as a worker elsewhere and so simulates one; it protects nothing, since
    caller and worker share one memory. A fault at the worker is raised by the line that caused it.

    Args:
        hook: a ``TorchHook``, as the scripts of old pass one; not needed.
        id: the worker's name.
        encode: pass every message through its bytes, as a network would.
        memory_bytes: what the session may hold, in bytes.
        objects: what it may hold, in tensors.
    """

    def __init__(
        self,
        hook: TorchHook | None = None,
        id: str = "worker",
        *,
        encode: bool = False,
        memory_bytes: int = 1 << 40,
        objects: int = 1 << 24,
    ) -> None:
        install()
        channel = _InProcess(id, encode=encode, memory_bytes=memory_bytes, objects=objects)
        super().__init__(id, channel, batch_commands=1)
        self._executor = None if encode else channel.executor

    def site(self) -> int:
        """None is looked for ahead of an error: it is raised by the line that asked."""
        return 0

    def post(self, command: m.Command, *, nbytes: int = 0) -> None:
        """Runs a command; an operation without the detour through a batch."""
        dead = len(self._forgotten)
        if self._executor is None or type(command) is not m.Call or dead >= _FORGOTTEN or nbytes * dead > _LARGE:
            super().post(command, nbytes=nbytes)
            return
        with self._lock, as_elsewhere():
            failure = self._executor.call(command)
        if failure is not None:
            raise self._error(failure)

    def _error(self, failure: m.Failure) -> WorkerError:
        return super()._error(replace(failure, site=call_sites.current()))


class _InProcess:
    """A channel that is a function call."""

    def __init__(self, name: str, *, encode: bool, memory_bytes: int, objects: int) -> None:
        self.fingerprint = f"sha256:{hashlib.sha256(f'{name}/{next(_numbers)}'.encode()).hexdigest()}"
        self.network = _NETWORK
        self._encode = encode
        self.executor = Executor(
            memory_bytes=memory_bytes,
            objects=objects,
            data_sets=_NoDataSets(),
            exchange=_Handover(self.fingerprint),
        )

    def post(self, commands: list[m.Command], puts: list[torch.Tensor]) -> m.Failure | None:
        if self._encode:
            commands = m.decode(Kind.BATCH, encode(m.Batch(commands))).commands
        self.executor.run(commands, [values.clone() for values in puts])
        return self.executor.failure()

    def ask(
        self,
        commands: list[m.Command],
        puts: list[torch.Tensor],
        question: m.Question,
        expected: Sequence[TensorSpec] = (),
    ) -> tuple[m.Answer | m.Failure, list[torch.Tensor]]:
        failure = self.post(commands, puts)
        if failure is not None:
            return failure, []
        if self._encode:
            question = m.decode(Kind.ASK, encode(m.Ask([], question))).question
        answer, values = self.executor.answer(question)
        return answer, [value.clone() for value in values]

    def close(self) -> None:
        self.executor.close()

    def abandon(self) -> None:
        pass  # the child's copy of what it holds goes with the child


class _NoDataSets:
    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        return ()


class _Handover:
    """Values pass from one virtual worker to another under the same tickets as over a network."""

    def __init__(self, own: str) -> None:
        self._own = own

    def reach(self, peer: str) -> None:
        """Nothing to do: every virtual worker is at hand."""

    def push(self, peer: str, ticket: bytes, tensors: Sequence[torch.Tensor]) -> None:
        _pushed[self._own, peer, ticket] = [tensor.clone() for tensor in tensors]

    def take(self, peer: str, ticket: bytes, specs: Sequence[TensorSpec], into: Sequence[torch.Tensor]) -> None:
        tensors = _pushed.pop((peer, self._own, ticket), None)
        if tensors is None or tuple(map(spec_of, tensors)) != tuple(specs):
            raise MoveError("nothing of that kind was pushed with this ticket")
        for values, arrived in zip(into, tensors, strict=True):
            values.copy_(arrived)

    def decline(self, peer: str, ticket: bytes, text: str) -> None:
        _pushed.pop((peer, self._own, ticket), None)
