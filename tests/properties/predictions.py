"""Every overload of the table, through the real executor, on valid and made-up calls: what is held is what was said.

Run as a program, it takes PyTorch's own operator samples too, which change settings of the process that loads them.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch.utils._pytree import tree_map_only

from cloister.tensor import ops, optable
from cloister.tensor.geometry import DTYPE_NAMES, Geometry
from cloister.tensor.ops import Of, Op
from cloister.wire import sessions as m
from cloister.worker.store import Entry
from tests.support.sessions import Session
from tools.fuzz.arguments import straight
from tools.fuzz.valid import Arguments, Valid, many

UNPREDICTED = "than was predicted"


def laid_out_anew(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """The same values: alone, in the middle of something larger, with gaps, or by columns."""
    how = draw.randrange(4)
    if how == 1:
        larger = torch.zeros(tensor.numel() + 3, dtype=tensor.dtype)
        larger[2 : 2 + tensor.numel()] = tensor.reshape(-1)
        return larger[2 : 2 + tensor.numel()].view(tensor.shape)
    if how == 2:
        return torch.stack([tensor, tensor], -1).select(-1, 0)
    if how == 3 and tensor.dim() > 1:
        return tensor.mT.contiguous().mT
    return tensor.contiguous()


class Trial:
    """One call in a session of its own."""

    def __init__(self, op: Op, arguments: Arguments) -> None:
        self.session = Session(memory_bytes=1 << 26, objects=1000)
        self.store = self.session.executor._store
        named = {name: self._sent(op, name, value) for name, value in arguments.items()}
        self.before = set(self.store.held)
        args = []
        for argument in op.overload._schema.arguments:
            if argument.name not in named or argument.kwarg_only:
                break
            args.append(named.pop(argument.name))
        seed = 1 if op.random else None
        for outs in self._numbers(op):
            ids = tuple(next(self.session.numbers) for _ in range(outs))
            self.session.executor.run([m.Call(op.name, args, named, ids, seed, 0)], [])
            self.failure = self.session.executor.failure()
            if self.failure is None or "number of tensors" not in self.failure.text:
                break

    @staticmethod
    def _numbers(op: Op) -> Iterable[int]:
        """How many tensors it may make; a list may be of any length."""
        fresh = [kind for kind in op.returns if kind in (Of.TENSOR, Of.TENSORS)]
        return range(1, 30) if Of.TENSORS in fresh else (len(fresh),)

    def _sent(self, op: Op, name: str, value: Any) -> Any:
        param = op.by_name[name]
        if isinstance(value, torch.Tensor):
            return self._held(value)
        if value is None or param.of in (Of.UNSENT, Of.GENERATOR):
            return None
        if param.of is Of.TENSORS:
            return [None if item is None else self._held(item) for item in value]
        return [value] if param.of is Of.TENSOR else param.to_wire(value)

    def _held(self, tensor: torch.Tensor) -> int:
        if tensor.dtype not in DTYPE_NAMES or tensor.layout is not torch.strided:
            raise TypeError("no such tensor lives at a worker")
        id = next(self.session.numbers)
        self.store.hold(id, tensor, Geometry.of(tensor))
        return id

    def faults(self) -> list[str]:
        """In what the session's books, or what it knows of its objects, differ from what is there."""
        entries = {id: entry for id, entry in self.store.held.items() if type(entry) is Entry}
        found = [
            f"{id}: {Geometry.of(entry.tensor)} is not {entry.geometry}"
            for id, entry in entries.items()
            if Geometry.of(entry.tensor) is not entry.geometry
        ]
        memories = {e.tensor.untyped_storage()._cdata: e.tensor.untyped_storage().nbytes() for e in entries.values()}
        if sum(memories.values()) != self.store.nbytes:
            found.append(f"{self.store.nbytes} bytes in the books, {sum(memories.values())} there")
        if self.failure is not None and set(entries) != self.before:
            found.append("a refused call has made something, or lost something")
        return found


def try_all(valid: Valid, cases: int, names: Iterable[str]) -> tuple[dict[str, list[str]], Counter[str]]:
    """Faults by overload, and how often each overload ran."""
    faults: dict[str, list[str]] = {}
    ran: Counter[str] = Counter()
    for name in names:
        op = ops.by_name(name)
        for number in range(cases):
            draw = random.Random(f"{name} {number}")
            torch.manual_seed(number)
            arguments = straight(draw, name, valid)
            arguments = tree_map_only(torch.Tensor, lambda t, draw=draw: laid_out_anew(t.detach(), draw), arguments)
            try:
                trial = Trial(op, arguments)
            except Exception:  # noqa: BLE001, S112 - no call that can travel
                continue
            ran[name] += trial.failure is None
            found = trial.faults()
            if trial.failure is not None and UNPREDICTED in trial.failure.text:
                found.append("unpredicted")
            if found:
                faults.setdefault(name, []).extend(found)
    return faults, ran


def no_fallback(*args: Any) -> Any:
    raise AssertionError(f"PyTorch was about to run the kernel of {args[1]} to find its shape")


def main(cases: int) -> None:
    """Prints faults, the overloads that never ran, and those that needed a kernel to tell their shape."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    valid = many()
    fake_tensor.run_fallback_kernel = no_fallback
    names = [name for name, row in optable.load().items() if not row.value]
    faults, ran = try_all(valid, cases, names)
    print(json.dumps([faults, [name for name in names if not ran[name]]]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
