"""Moving values between workers, directly where the two can reach each other."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress

from cloister.errors import MoveError, WorkerError
from cloister.tensor import call_sites
from cloister.tensor.geometry import DTYPE_NAMES, Geometry
from cloister.tensor.pointer import PointerTensor, fetch
from cloister.tensor.session import Location, RemoteObject
from cloister.wire.limits import LIST_ITEMS
from cloister.wire.sessions import Push, Reach, Take
from cloister.wire.tensors import TensorSpec


def move(pointers: Sequence[PointerTensor], worker: Location, *, or_through_here: bool = False) -> None:
    """Moves the values behind ``pointers`` to ``worker``; a pointer whose values are there already is left alone.

    The pointers are the same tensor objects afterwards. They are changed only once the values have arrived, so a
    move that fails leaves everything where it was. ``or_through_here``: what the workers cannot pass on goes through
    this process.

    Raises:
        MoveError: the workers could not pass the values on.
    """
    by_source: dict[Location, list[PointerTensor]] = {}
    for pointer in pointers:
        if pointer.location is not worker:
            by_source.setdefault(pointer.location, []).append(pointer)
    for source, moved in by_source.items():
        through = _push if source.network == worker.network else _carry
        for start in range(0, len(moved), LIST_ITEMS):
            part = moved[start : start + LIST_ITEMS]
            try:
                arrived = through(part, worker)
            except MoveError:
                if not or_through_here:
                    raise
                arrived = _carry(part, worker)
            for pointer, obj in zip(part, arrived, strict=True):
                pointer.untag()
                geometry = Geometry.contiguous(pointer.dtype, tuple(pointer.shape))
                pointer.rebind(PointerTensor.make(obj, geometry))


def _push(moved: Sequence[PointerTensor], worker: Location) -> list[RemoteObject]:
    """The source gives the values to the other worker itself; nothing passes through here."""
    source = moved[0].location
    ticket = secrets.token_bytes(32)
    arriving = [worker.new_object() for _ in moved]
    ids = tuple(pointer.remote.id for pointer in moved)
    specs = tuple(TensorSpec(DTYPE_NAMES[pointer.dtype], tuple(pointer.shape)) for pointer in moved)
    site = call_sites.current()
    # The other worker is told to wait only once this one has nothing else to do and has a way to it.
    source.post(Reach(worker.fingerprint, site))
    source.describe([pointer.remote for pointer in moved])
    source.post(Push(ids, worker.fingerprint, ticket, site))
    source.flush()
    worker.post(Take(tuple(obj.id for obj in arriving), specs, source.fingerprint, ticket, site))
    worker.flush()
    try:
        source.describe([moved[0].remote])  # answered once the other worker has confirmed
    except MoveError:
        with suppress(WorkerError):  # the same failure, seen from the other side
            worker.count()
        raise
    return arriving


def _carry(moved: Sequence[PointerTensor], worker: Location) -> list[RemoteObject]:
    """Between a worker in this process and one elsewhere there is no way but through this process."""
    return [worker.put(values) for values in fetch(moved)]
