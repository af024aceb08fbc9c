"""One operation on a session's objects: what is looked at before it runs, and what it made held against what was said.

The order matters. Guards look first: they alone expect that nothing about the arguments holds. Then the outline is
found, on tensors without values. Only then does a kernel run, and nothing can refer to what it made before that was
found to be what was predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from cloister.errors import MemoryLimitError, OpRefusedError, WorkerError
from cloister.tensor import ops, results
from cloister.tensor.geometry import DTYPE_NAMES, Geometry
from cloister.tensor.inference import Outline, outline_of
from cloister.tensor.ops import Of, Op
from cloister.wire import sessions as m
from cloister.worker import call_checks, guards, output_bounds, undoing, uninitialised
from cloister.worker.arguments import decode, decode_named
from cloister.worker.seeding import seeded
from cloister.worker.store import Entry, Store
from cloister.worker.torch_errors import reported

_TENSOR: Final = Of.TENSOR  # an enumeration's members are slow to look up


_NOTHING: Final[undoing.Kept] = []


def run(store: Store, device: torch.device, call: m.Call) -> None:
    """Runs one operation.

    Raises:
        WorkerError: it was refused, or PyTorch raised; the store holds nothing new then.
    """
    op = ops.by_name(call.op)
    args, kwargs, known = _decoded(op, call, store)
    if op.guard:
        _guard(op, args, kwargs)
    outline = op.outlines.get(known) or _outline(op, known, args, kwargs)
    nbytes = _bound(op, store, args, kwargs) if outline.data_dependent else outline.nbytes
    single = outline.single
    if single is None or len(call.outs) != 1 or not call.outs[0]:
        _check_outs(op, call, outline)
    store.check_room(nbytes=nbytes, ids=call.outs)
    if op.takes_device:
        kwargs["device"] = device
    kept = _NOTHING
    try:
        if op.written:
            kept = undoing.keep(op, args, kwargs)
        returned = _computed(op, call.seed, device, args, kwargs)
        if op.written:
            first = known[0] if op.inplace else None
            if type(first) is not Geometry or not results.looks(args[0], first):
                _check_written(op, call, store)
        if single is None:
            _hold_all(op, call, store, outline, nbytes, returned)
            return
        memory = returned.untyped_storage() if returned.layout is torch.strided else None
        if memory is None or not results.fits(returned, single, memory):
            returned = results.settled(op, returned, single)
            memory = returned.untyped_storage()
    except Exception as fault:  # noqa: BLE001 - whatever PyTorch raises for these arguments, it is the caller's
        undoing.put_back(kept)
        raise reported(fault, args=args, kwargs=kwargs) from None
    if op.zero_fill:
        uninitialised.zero(returned)
    store.held[call.outs[0]] = Entry(store, returned, single, memory)


def _decoded(op: Op, call: m.Call, store: Store) -> tuple[list[Any], dict[str, Any], tuple[object, ...]]:
    """The arguments, and what the outline depends on of them."""
    args: list[Any] = []
    key: list[object] = []
    held = store.held
    if len(call.args) > len(op.params):
        raise OpRefusedError(f"{op} takes {len(op.params)} arguments, not {len(call.args)}")
    if op.random is (call.seed is None):
        raise OpRefusedError(f"{op} {'needs a' if op.random else 'takes no'} seed")
    for param, value in zip(op.params, call.args):  # noqa: B905  - strict= costs, and they were counted
        entry = held.get(value) if type(value) is int and param.of is _TENSOR else None
        if type(entry) is Entry:
            args.append(entry.tensor)
            key.append(entry.geometry)
        else:
            args.append(decode(param, value, store, key))
    return args, decode_named(op, call.kwargs, store, key) if call.kwargs else {}, tuple(key)


def _guard(op: Op, args: list[Any], kwargs: dict[str, Any]) -> None:
    try:
        guards.check(op.name, ops.arguments_by_name(op, args, kwargs))
    except Exception as fault:  # noqa: BLE001 - arguments that cannot even be looked at: PyTorch would not take them
        raise reported(fault, args=args, kwargs=kwargs) from None


def _outline(op: Op, key: tuple[object, ...], args: list[Any], kwargs: dict[str, Any]) -> Outline:
    call_checks.check(op, args, kwargs)
    try:
        outline = outline_of(op, key, args, kwargs, Geometry.of)
    except WorkerError:
        raise
    except Exception as fault:  # noqa: BLE001 - PyTorch finds shapes in Python, which raises whatever it likes
        raise reported(fault, args=args, kwargs=kwargs) from None
    if not all(geometry is None or geometry.dtype in DTYPE_NAMES for geometry in outline.geometries):
        op.outlines.pop(key, None)
        raise OpRefusedError(f"{op} would make a tensor of an element type that does not travel")
    if op.views is None:  # what the store will count
        outline.nbytes = sum(geometry.storage_bytes for geometry in outline.geometries if geometry is not None)
    return outline


def _bound(op: Op, store: Store, args: list[Any], kwargs: dict[str, Any]) -> int:
    """The most that results can weigh whose size depends on values, in bytes."""
    try:
        nbytes = output_bounds.output_bytes(op.name, ops.arguments_by_name(op, args, kwargs))
    except Exception as fault:  # noqa: BLE001 - as in _guard
        raise reported(fault) from None
    if store.nbytes + nbytes > store.memory_bytes:
        # Not how much: that would tell a value.
        raise MemoryLimitError(f"{op} could make more here than the session may hold; free tensors (del)")
    return nbytes


def _check_outs(op: Op, call: m.Call, outline: Outline) -> None:
    if len(call.outs) != (len(op.returns) if outline.data_dependent else len(outline.geometries)):
        raise OpRefusedError(f"{op} makes another number of tensors here than ids came for them")
    if 0 in call.outs and not all(map(_may_be_absent, call.outs, outline.geometries or call.outs)):
        raise OpRefusedError(f"{op} makes a tensor here that no id came for")


def _may_be_absent(id: int, geometry: object) -> bool:
    return bool(id) or geometry is None


def _computed(op: Op, seed: int | None, device: torch.device, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if seed is None:
        returned = op.kernel(*args, **kwargs)
    else:
        with seeded(seed, device):
            returned = op.kernel(*args, **kwargs)
    if op.guard and op.name in uninitialised.LEAVE_GAPS:
        uninitialised.close(op.name, ops.arguments_by_name(op, args, kwargs), returned)
    return returned


def _check_written(op: Op, call: m.Call, store: Store) -> None:
    """Holds the objects that an operation wrote to against what is known of them: memory grows only with a shape."""
    for position, name in op.written:
        id = call.args[position] if position < len(call.args) else call.kwargs.get(name)
        entry = store.held.get(id) if type(id) is int else None
        if type(entry) is Entry and not results.looks(entry.tensor, entry.geometry):
            raise store.spoil(entry, results.unpredicted(op, entry.tensor, entry.geometry))


def _hold_all(op: Op, call: m.Call, store: Store, outline: Outline, nbytes: int, returned: Any) -> None:
    if op.inplace:
        return
    fresh = results.fresh(op, returned)
    geometries: Sequence[Geometry | None] = outline.geometries
    if outline.data_dependent:
        fresh = results.bounded(op, fresh, nbytes)
        geometries = [None if tensor is None else Geometry.of(tensor) for tensor in fresh]
    else:
        fresh = results.all_settled(op, fresh, geometries)
    for id, tensor, geometry in zip(call.outs, fresh, geometries, strict=True):
        if id and tensor is not None and geometry is not None:
            store.hold(id, tensor, geometry)
