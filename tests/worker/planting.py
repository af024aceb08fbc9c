"""Executors with a fault in them, and whether ``tools.fuzz`` notices it: ``python -m tests.worker.planting`` tells.

Each plant is a fault of the operation ``abs``, in place or not; the sessions call nothing else but ``logical_not``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from cloister.errors import RemoteValueError
from cloister.tensor import results
from cloister.worker import calls
from cloister.worker.store import Entry, Store
from tools.fuzz import campaign, shrinking
from tools.fuzz.campaign import Campaign
from tools.fuzz.fence import Fence, fenced
from tools.fuzz.shrinking import shrunk

OPERATIONS = ["aten::abs", "aten::abs_", "aten::logical_not"]
CALLS = 60
CPU_SECONDS = 2.0  # of a step; the planted one never ends
HANGS = 5  # tries to shrink it

Plant = Callable[[Store, torch.Tensor], Any]


def _writes_another(store: Store, made: torch.Tensor) -> Any:
    for entry in store.held.values():
        if type(entry) is Entry and entry.tensor is not made:
            ctypes.memset(entry.tensor.untyped_storage().data_ptr(), 0x33, entry.tensor.untyped_storage().nbytes())
    return made


def _fails_late(store: Store, made: torch.Tensor) -> Any:
    raise RemoteValueError("after the work")


def _oversized(store: Store, made: torch.Tensor) -> Any:
    return torch.zeros(made.numel() + 100, dtype=made.dtype)[: made.numel()].view(made.shape)


def _reads_outside(store: Store, made: torch.Tensor) -> Any:
    ctypes.string_at(made.untyped_storage().data_ptr() - 1, 1)
    return made


def _writes_beside(store: Store, made: torch.Tensor) -> Any:
    ctypes.memset(made.untyped_storage().data_ptr() + made.untyped_storage().nbytes(), 0x33, 1)
    return made


def _never_ends(store: Store, made: torch.Tensor) -> Any:
    while True:
        pass


def _dies(store: Store, made: torch.Tensor) -> Any:
    os.kill(os.getpid(), signal.SIGILL)


def _draws(store: Store, made: torch.Tensor) -> Any:
    torch.rand(1)
    return made


PLANTS: Mapping[str, tuple[str, str, Plant]] = {
    "writes another object": ("mutation", "aten::abs", _writes_another),
    "fails once it has written": ("refusal", "aten::abs_", _fails_late),
    "result never written": ("leak", "aten::abs", lambda _, made: torch.empty_like(made)),
    "storage larger than booked": ("books", "aten::abs", _oversized),
    "another shape": ("geometry", "aten::abs", lambda _, made: made.unsqueeze(0)),
    "a bool of two": ("values", "aten::logical_not", lambda _, made: made.view(torch.uint8).fill_(2).view(torch.bool)),
    "reads outside": ("crash", "aten::abs", _reads_outside),
    "writes beside": ("overrun", "aten::abs", _writes_beside),
    "dies": ("crash", "aten::abs", _dies),
    "never ends": ("hang", "aten::abs", _never_ends),
    "draws unseeded": ("random", "aten::abs", _draws),
}
"""What is wrong: what it is to be found as, the operation, and what becomes of its result."""

NEED_FENCE = frozenset({"result never written", "reads outside", "writes beside"})


@contextmanager
def _planted(op: str, plant: Plant) -> Iterator[None]:
    """Operations with the fault, in sessions that do not hold results against what was predicted."""
    run, computed = calls.run, calls._computed
    stores: list[Store] = []

    def runs(store: Store, device: Any, call: Any) -> None:
        stores[:] = [store]
        run(store, device, call)

    def computes(called: Any, *rest: Any) -> Any:
        made = computed(called, *rest)
        return plant(stores[0], made) if called.name == op else made

    with (
        mock.patch.object(calls, "run", runs),
        mock.patch.object(calls, "_computed", computes),
        mock.patch.object(results, "fits", return_value=True),
    ):
        yield


def _fewer_hangs() -> Any:
    return mock.patch.object(shrinking, "TRIES_OF_HANGS", HANGS)


def main(fence: Fence) -> dict[str, list[Any]]:
    """What is found without and with each plant: kind, operation, steps it was shrunk to, kind when taken again."""
    torch.set_num_threads(1)
    found: dict[str, list[Any]] = {}
    for name, (_, op, plant) in {"": ("", "", _dies), **PLANTS}.items():
        searched = Campaign(fence, {}, OPERATIONS, seed=1)
        with _planted(op, plant), mock.patch.object(campaign, "CPU_SECONDS", CPU_SECONDS), _fewer_hangs():
            _, finding = searched.sessions([0, 1], CALLS)
            if finding is not None:
                finding = shrunk(finding, searched.again)
                again = searched.again(finding.steps)
                found[name] = [finding.kind, finding.op, len(finding.steps), again and again.kind]
    return found


if __name__ == "__main__":
    there = fenced()
    print(json.dumps({"fenced": bool(there), "found": main(there)}))
