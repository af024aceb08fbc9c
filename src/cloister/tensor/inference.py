"""What an operation will return, found without values, before it runs.

On the first meeting of an operation with arguments of certain geometries, PyTorch works the outputs out on tensors
without values (0.1 to 2 ms); after that a dictionary of our own answers. A caller needs them to make pointers of the
right shape without waiting; a worker needs them to refuse an output that would break the session's memory limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any, Final, cast

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
from torch.utils._mode_utils import no_dispatch

from cloister.errors import OpRefusedError
from cloister.tensor import ops
from cloister.tensor.fakes import Fakes
from cloister.tensor.geometry import DTYPE_NAMES, Geometry, check_extents
from cloister.tensor.ops import Of, Op, Param

_CACHED: Final = 1 << 18
"""So many arguments and outputs the outlines that are kept may have together, so that no caller fills the memory."""


class Outline:
    """An operation's outputs: the geometries of the fresh ones, flattened, with None for one that is absent.

    ``lists`` holds the length of each list among the returns, in order. ``data_dependent`` says that the shapes are
    known only after the operation ran; ``geometries`` is then empty.
    """

    __slots__ = ("data_dependent", "geometries", "lists", "nbytes", "single")

    def __init__(self, op: Op, geometries: Sequence[Geometry | None], lists: Sequence[int] = ()) -> None:
        self.geometries = tuple(geometries)
        self.lists = tuple(lists)
        self.data_dependent = False
        self.nbytes = 0 if op.views is not None else sum(g.storage_bytes for g in self.geometries if g is not None)
        self.single = self.geometries[0] if op.returns == (Of.TENSOR,) and self.geometries else None

    @classmethod
    def unknown(cls, op: Op) -> Outline:
        """The outline of an operation whose output shapes depend on values."""
        outline = cls(op, ())
        outline.data_dependent = True
        return outline


class _Cache:
    """The outlines that operations keep, all of which are forgotten when they become too many."""

    def __init__(self) -> None:
        self._size = 0
        self._ops: set[Op] = set()

    def add(self, op: Op, key: tuple[object, ...], outline: Outline) -> None:
        """Keeps one."""
        lists = sum(len(each) for each in key if type(each) is tuple)
        size = 1 + len(key) + lists + len(outline.geometries)
        with _lock:
            if self._size + size > _CACHED:
                self.clear()
            self._size += size
            self._ops.add(op)
            op.outlines[key] = outline

    def clear(self) -> None:
        """Forgets all of them."""
        for op in self._ops:
            op.outlines.clear()
        self._ops.clear()
        self._size = 0


def outline_of(
    op: Op,
    key: tuple[object, ...],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    geometry_of: Callable[[torch.Tensor], Geometry],
) -> Outline:
    """What ``op`` returns for these arguments.

    Args:
        key: what the outputs depend on: geometries for tensors, types for numbers, values for the rest.
        geometry_of: the geometry of a tensor among the arguments.

    Raises:
        RuntimeError, IndexError, ValueError, NotImplementedError: as PyTorch raises for these shapes and types.
        OpRefusedError: PyTorch cannot tell the output's shape, so that no limit could be held.
    """
    found = op.outlines.get(key)
    if found is not None:
        return cast(Outline, found)
    outline = _infer(op, args, kwargs, geometry_of)
    _cache.add(op, key, outline)
    return outline


def add_literal(key: list[object], param: Param, travelling: object, taken: Any) -> None:
    """Adds to a ``key`` what outputs depend on of an argument that is no tensor.

    Args:
        travelling: the argument as it travels.
        taken: the same as PyTorch takes it, by ``param.from_wire``.
    """
    of = param.of
    if of is Of.LIST:
        key.append(tuple(taken))
    elif of is Of.DTYPE or of is Of.MEMORY_FORMAT:
        key.append(travelling)
    else:
        key.append(type(taken))
        if param.value_in_key:
            key.append(taken)


def _infer(
    op: Op, args: Sequence[Any], kwargs: dict[str, Any], geometry_of: Callable[[torch.Tensor], Geometry]
) -> Outline:
    def faked(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _fake(geometry_of(value))
        if isinstance(value, (list, tuple)):
            return [faked(item) for item in value]
        if isinstance(value, (torch.device, torch.Generator)):
            return None
        return value

    fault: Exception
    with _lock, _quiet(), _mode:
        try:
            returned = op.overload(*map(faked, args), **{name: faked(value) for name, value in kwargs.items()})
        except (DynamicOutputShapeException, DataDependentOutputException, UnsupportedOperatorException):
            if op.row.dynamic:
                return Outline.unknown(op)
            raise OpRefusedError(f"the shapes that {op} would return cannot be told before it runs") from None
        except Exception as found:  # noqa: BLE001 - PyTorch finds shapes in Python, which raises whatever it likes
            fault = found.with_traceback(None)
        else:
            outline = _outline(op, returned, wanted=ops.arguments_by_name(op, args, kwargs).get("output_mask"))
            _check_views(op, outline, args, kwargs, geometry_of)
            return outline
    try:
        raise _as_kernels_raise(op, args, kwargs, geometry_of, fault) from None
    finally:
        del fault


def _as_kernels_raise(
    op: Op,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    geometry_of: Callable[[torch.Tensor], Geometry],
    fault: Exception,
) -> Exception:
    """What PyTorch's kernels raise where its Python for shapes raised ``fault``: the types differ now and then.

    They are asked on the device "meta", where nothing is computed. If they raise nothing there, ``fault`` it is, but no
    TypeError under a dispatch handler: Python's binary operators would swallow it.
    """

    def meta(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            geometry = geometry_of(value)
            return torch.empty_strided(geometry.shape, geometry.strides, dtype=geometry.dtype, device="meta")
        if isinstance(value, (list, tuple)):
            return [meta(item) for item in value]
        return None if isinstance(value, (torch.device, torch.Generator)) else value

    with no_dispatch():
        try:
            op.overload(*map(meta, args), **{name: meta(value) for name, value in kwargs.items()})
        except (IndexError, ValueError, NotImplementedError, RuntimeError) as raised:
            if not isinstance(raised, NotImplementedError) or isinstance(fault, NotImplementedError):
                return raised.with_traceback(None)
        except Exception:  # noqa: BLE001, S110 - nothing is to be learned from it
            pass
    if isinstance(fault, (IndexError, ValueError, NotImplementedError, RuntimeError)):
        return fault
    return RuntimeError(str(fault))


def _outline(op: Op, returned: Any, *, wanted: Sequence[bool] | None) -> Outline:
    """``wanted`` says of each result whether it is asked for; kernels make nothing of the others, some shape functions
    do."""
    geometries: list[Geometry | None] = []
    lists: list[int] = []
    for kind, value in zip(op.returns, returned if len(op.returns) > 1 else (returned,), strict=False):
        if kind is Of.TENSOR:
            geometries.append(_geometry(value))
        elif kind is Of.TENSORS:
            lists.append(len(value))
            geometries.extend(map(_geometry, value))
        elif kind is Of.UNKNOWN:
            raise OpRefusedError(f"{op} returns something other than tensors")
    if wanted is not None and len(wanted) == len(geometries):
        geometries = [each if asked else None for each, asked in zip(geometries, wanted, strict=True)]
    return Outline(op, geometries, lists)


def _geometry(value: torch.Tensor | None) -> Geometry | None:
    if value is None:
        return None
    if value.layout is not torch.strided:
        raise OpRefusedError("tensors that are not strided do not live at workers")
    if value.dtype not in DTYPE_NAMES:
        raise OpRefusedError(f"tensors of {value.dtype} do not live at workers")
    check_extents(value.shape, value.stride())
    return Geometry.of(value)


def _check_views(
    op: Op,
    outline: Outline,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    geometry_of: Callable[[torch.Tensor], Geometry],
) -> None:
    """Refuses a view that reaches beyond its tensor's memory; without values, PyTorch lets the memory grow instead."""
    if op.views is None:
        return
    viewed = args[op.views] if op.views < len(args) else kwargs.get(op.params[op.views].name)
    if not isinstance(viewed, torch.Tensor):
        return
    most = geometry_of(viewed).storage_bytes
    for geometry in outline.geometries:
        if geometry is not None and (geometry.storage_bytes != most or geometry.end_bytes > most):
            raise RuntimeError("the view reaches beyond the memory of its tensor")


def _fake(geometry: Geometry) -> torch.Tensor:
    storage = torch.empty(geometry.storage_bytes, dtype=torch.uint8, device="cpu").untyped_storage()
    whole = torch.empty(0, dtype=geometry.dtype, device="cpu")
    return whole.set_(storage, geometry.offset, geometry.shape, geometry.strides)


_lock: Final = RLock()
_mode: Final = Fakes()
_cache: Final = _Cache()
_log: Final = logging.getLogger("torch._subclasses.fake_tensor")


@contextmanager
def _quiet() -> Iterator[None]:
    # It prints a traceback at each shape error; ours is the caller's own exception.
    before = _log.level
    _log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        _log.setLevel(before)
