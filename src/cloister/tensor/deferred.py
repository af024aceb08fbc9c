"""Tensors that PyTorch makes on its way through an operation, before it is known at which worker they belong.

The gradient of ``clamp`` needs a zero, ``p[0] = 9`` a nine, causal attention a mask: PyTorch's own code makes them, on
the device of the pointers and with no pointer among the arguments. Pointers are on the device "lazy" for this reason
alone: no backend of PyTorch's own is registered there, so that its factories are ours to define, and autograd serves it
in the caller's thread.

Such a tensor is a *draft*: its values are here. The first operation in which it meets a pointer sends it to that
pointer's worker, and from then on it is a pointer like any other.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch.utils._mode_utils import no_dispatch

from cloister.errors import NotColocatedError
from cloister.tensor.geometry import Geometry
from cloister.tensor.pointer import DEVICE, PointerTensor
from cloister.tensor.session import LocalSide, Location, RemoteObject

_AS_STRIDED: Final = torch.ops.aten.as_strided.default


class Draft(PointerTensor):
    """A tensor that has met no pointer yet. ``settle`` turns it into a ``PointerTensor``, in place."""

    _held: torch.Tensor | None
    _family: list[weakref.ref[Draft]]
    """The drafts that share memory with this one, itself included."""

    @staticmethod
    def of(values: torch.Tensor, family: list[weakref.ref[Draft]] | None = None) -> Draft:
        """A draft of these values, which are not copied."""
        draft: Draft = torch.Tensor._make_wrapper_subclass(
            Draft,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        draft._object, draft._geometry, draft._held = None, Geometry.of(values), values
        draft._family = [] if family is None else family
        draft._family.append(weakref.ref(draft))
        return draft

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors_in((*args, *kwargs.values())))
        met = next((tensor for tensor in tensors if type(tensor) is PointerTensor), None)
        if met is None:
            return _run_here(func, args, kwargs, [tensor for tensor in tensors if type(tensor) is Draft])
        for tensor in tensors:
            if type(tensor) is Draft:
                settle(tensor, met.location)
        return cls.dispatch(func, args, kwargs)

    @property
    def remote(self) -> RemoteObject:
        """There is none yet."""
        raise NotColocatedError("this tensor is at no worker yet: send it to one, or use it together with a pointer")

    def get(self, *, keep: bool = False) -> torch.Tensor:
        """The values, which are here."""
        return cast(torch.Tensor, self._held).clone().requires_grad_(self.requires_grad and self.is_leaf)

    def move(self, worker: Location | LocalSide) -> torch.Tensor:
        """Sends the values to ``worker``; returns the tensor itself."""
        if isinstance(worker, LocalSide):
            return self.get()
        settle(self, worker)
        return self

    def send(self, worker: Location, tags: object = ()) -> Any:
        """Sends the values to ``worker`` and returns a pointer to them."""
        return cast(Any, self.get()).send(worker, tags=tags)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"PointerTensor({self._geometry} at no worker yet)"


def settle(draft: Draft, location: Location) -> None:
    """Sends a draft's values to ``location``; drafts that share memory with it go along, and share it there."""
    family = [member for reference in draft._family if type(member := reference()) is Draft]
    values = cast(torch.Tensor, draft._held)
    if len(family) == 1:
        _become(draft, location.put(values), Geometry.contiguous(values.dtype, tuple(values.shape)))
        return
    whole = torch.empty(0, dtype=values.dtype).set_(values.untyped_storage())
    there = PointerTensor.make(location.put(whole), Geometry.contiguous(whole.dtype, tuple(whole.shape)))
    for member in family:
        own = cast(torch.Tensor, member._held)
        view = PointerTensor.dispatch(_AS_STRIDED, (there, own.shape, own.stride(), own.storage_offset()), {})
        _become(member, view.remote, view._geometry)


def _become(draft: Draft, obj: RemoteObject, geometry: Geometry) -> None:
    draft._object, draft._geometry, draft._held = obj, geometry, None
    draft._family = []  # a module's parameter that is weakly held could not come home in place
    draft.__class__ = PointerTensor  # type: ignore[assignment]


def _run_here(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], drafts: list[Draft]) -> Any:
    """An operation among drafts only."""
    with torch.no_grad():
        returned = func(*map(_local, args), **{name: _local(value) for name, value in kwargs.items()})
    for draft in drafts:
        _follow(draft)
    writes_elsewhere = args and type(args[0]) is not Draft and func._schema.is_mutable
    return returned if writes_elsewhere else _drafted(returned, drafts)


def _local(value: Any) -> Any:
    if type(value) is Draft:
        return value._held
    if type(value) in (list, tuple):
        return [_local(item) for item in value]
    return None if isinstance(value, torch.device) and value == DEVICE else value


def _drafted(returned: Any, drafts: list[Draft]) -> Any:
    """What was returned, as drafts: one that was given and is handed back, a view of one, or a new one."""
    if type(returned) in (list, tuple):
        return type(returned)(_drafted(item, drafts) for item in returned)
    if not isinstance(returned, torch.Tensor):
        return returned
    family = None
    for draft in drafts:
        values = cast(torch.Tensor, draft._held)
        if values is returned:
            return draft
        if values.untyped_storage()._cdata == returned.untyped_storage()._cdata:
            family = draft._family
    return Draft.of(returned, family)


def _follow(draft: Draft) -> None:
    """Gives a draft the shape that its values took in an operation such as ``resize_`` or ``t_``."""
    values = cast(torch.Tensor, draft._held)
    if draft.shape != values.shape or draft.stride() != values.stride():
        with no_dispatch():
            torch.Tensor.data.__set__(draft, Draft.of(values))  # type: ignore[attr-defined]
        draft._geometry = Geometry.of(values)


def _tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from _tensors_in(value)


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Draft:
    return Draft.of(torch.zeros(size, dtype=dtype, device="cpu"))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Draft:
    return Draft.of(torch.empty_strided(size, stride, dtype=dtype, device="cpu").zero_())


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    # How torch.tensor([...], device=pointer.device) and p[[0, 2]] fill what they made.
    values = source._held if type(source) is Draft else source
    cast(torch.Tensor, cast(Draft, target)._held).copy_(cast(torch.Tensor, values))
    return target


def _item(tensor: PointerTensor) -> bool | int | float | complex:
    # How torch.tensor([p[0], p[1]]) reads numbers, past everything that would reach the dispatch of a pointer.
    return tensor.get(keep=True).item()


_ours: Final[Any] = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
_ours.impl("empty.memory_format", _empty, "Lazy")
_ours.impl("empty_strided", _empty_strided, "Lazy")
_ours.impl("_efficientzerotensor", _empty, "Lazy")
_ours.impl("_copy_from", _copy_from, "Lazy")
_ours.impl("_local_scalar_dense", _item, "Lazy")
# Checkpointing asks for the device's module, and takes a device without a state of its own from an empty one.
if not hasattr(torch, DEVICE.type):
    torch._register_device_module(DEVICE.type, ModuleType(f"torch.{DEVICE.type}"))  # type: ignore[no-untyped-call]
