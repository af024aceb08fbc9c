"""``PointerTensor``: a tensor whose values live at a worker.

It is a real ``torch.Tensor`` with shape, element type and autograd, and no data. Autograd, ``nn.Module`` and
optimizers run at the caller as they are; every operation below them reaches ``cloister.tensor.dispatch``, which has
the worker run it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, NoReturn, cast

import torch

from cloister.errors import (
    ImplicitDownloadError,
    OpRefusedError,
    PointerAssignmentError,
    PointerNotPortableError,
    PointerSpentError,
)
from cloister.tensor import call_sites, forks
from cloister.tensor.geometry import Geometry
from cloister.tensor.session import LocalSide, Location, RemoteObject

DEVICE: Final = torch.device("lazy")
"""Where pointers say that they are; ``cloister.tensor.deferred`` says why."""
OTHER_DEVICE: Final = "which device holds a worker's tensors is its owner's choice; leave the device out"
_STRIDED: Final = torch.strided
_make_wrapper: Final = torch.Tensor._make_wrapper_subclass

_grad: Final[Any] = torch.Tensor.grad


class PointerTensor(torch.Tensor):
    """A tensor at a worker.

    Arithmetic, indexing, ``backward`` and the rest are those of ``torch.Tensor``, run at the worker. ``get`` brings
    the values here; ``move`` sends them to another worker, without passing through here.
    """

    _object: RemoteObject | None
    _geometry: Geometry

    dispatch: ClassVar[Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]]
    """What becomes of an operation: set by ``cloister.tensor.dispatch``, which is built on this class."""
    bring: ClassVar[Callable[[PointerTensor, Location], None]]
    """Moves one, with what optimizers keep for it: set by ``cloister.tensor.states``."""

    # Everything is caught below autograd instead, where far fewer and simpler operations arrive.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def make(obj: RemoteObject, geometry: Geometry, *, requires_grad: bool = False) -> PointerTensor:
        """A pointer to ``obj``, which is of this geometry."""
        # By position, since that halves the cost: size, strides, storage offset, memory format, dtype, layout, device.
        # One device for all pointers, so that composite operations decompose in the same way at every caller.
        pointer: PointerTensor = _make_wrapper(
            PointerTensor, geometry.shape, geometry.strides, geometry.offset, None, geometry.dtype, _STRIDED, DEVICE
        )
        pointer._object = obj
        pointer._geometry = geometry
        if requires_grad:
            pointer.requires_grad_(True)
        return pointer

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return cls.dispatch(func, args, kwargs or {})

    # Where it is, and how its values move.

    @property
    def location(self) -> Location:
        """The worker that holds the values."""
        return self.remote.location

    @property
    def remote(self) -> RemoteObject:
        """The object at the worker.

        Raises:
            PointerSpentError: ``get`` took it back.
        """
        if self._object is None:
            raise PointerSpentError(
                "get() took this pointer's value back; use get(keep=True) to leave it at the worker"
            )
        return self._object

    def get(self, *, keep: bool = False) -> torch.Tensor:
        """The values, as a local tensor; the worker's object is given up unless ``keep``, and its tags with it.

        Raises:
            WorkerError: the worker refuses, or something went wrong there before.
            NetworkError: it cannot be reached.
        """
        (values,) = fetch([self])
        if self.is_leaf:
            values.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            values = torch.nn.Parameter(values, requires_grad=self.requires_grad)
        if not keep:
            self.untag()
            self._object = None
        return values

    def move(self, worker: Location | LocalSide) -> torch.Tensor:
        """Moves the values to another worker, which gets them from this one directly; returns the pointer itself.

        Their tags end with that.
        A move to the local side is ``get``.

        Raises:
            MoveError: the workers could not pass the values on; they are where they were.
        """
        if isinstance(worker, LocalSide):
            return self.get()
        PointerTensor.bring(self, worker)
        return self

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that the object carries, as far as this session gave them or found it by them."""
        return () if self._object is None else self._object.location.tags_of(self._object)

    def untag(self, *tags: str) -> None:
        """Takes these tags off the object, or all of them; without any, it lives no longer than its pointers.

        An owner's data set keeps its tags.
        """
        if self.tags:
            self.location.tag(self.remote, tuple(each for each in self.tags if tags and each not in tags))

    def copy(self) -> PointerTensor:
        """Another object at the worker with the same values; ``clone``, by the name that PySyft has for it."""
        return cast(PointerTensor, self.clone())

    def send(self, worker: Location, tags: object = ()) -> NoReturn:
        """Refused: the values are not here."""
        there = getattr(worker, "id", worker)
        raise PointerAssignmentError(
            f"this tensor's values are at {self.location.id}; use move() to send them to {there}"
        )

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As ``torch.Tensor.to``. To the CPU it is a download, and the pointer stays.

        Raises:
            OpRefusedError: to another device.
            ImplicitDownloadError: to the CPU, inside a sent module's ``forward``.
        """
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, (str, torch.device)) and call_sites.asked_by_keras():
            # Keras brings all that it is given to its own device: from its point of view, pointers are there.
            kwargs.pop("device", None)
            return super().to(*args[1:], **kwargs) if args[1:] or kwargs else self
        # PyTorch would look for the device here first, and complain that there is none.
        if isinstance(device, (str, torch.device)) and torch.device(device).type not in ("cpu", DEVICE.type):
            self._to_other_device()
        return super().to(*args, **kwargs)

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As ``torch.Tensor.cpu``: a download.

        Raises:
            ImplicitDownloadError: inside a sent module's ``forward``, or where Keras asks, on its way to NumPy.
        """
        if call_sites.asked_by_keras():
            raise ImplicitDownloadError(
                f"Keras would bring values home from {self.location.id} for NumPy: write get() first. What is computed "
                "there: model(x), keras.ops, keras.losses, an optimizer's apply, fit, evaluate, train_on_batch"
            )
        return super().cpu(*args, **kwargs)

    def _to_other_device(self, *args: object, **kwargs: object) -> NoReturn:
        raise OpRefusedError(OTHER_DEVICE)

    cuda = xpu = ipu = hpu = mtia = _to_other_device

    # What a pointer must not be taken for.

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        if self._object is None:
            return "PointerTensor(spent)"
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"PointerTensor({self._geometry} at {self._object.location.id}{grad})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 and spec else repr(self)

    def tolist(self) -> Any:
        """The values as nested lists, fetched from the worker."""
        return self.get(keep=True).tolist()

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __deepcopy__(self, memo: dict[int, Any]) -> PointerTensor:
        known = memo.get(id(self))
        if known is not None:
            return cast(PointerTensor, known)
        if not self.is_leaf:
            raise RuntimeError("only tensors that are leaves of the graph can be deep-copied; detach() it first")
        with torch.no_grad():
            copied = cast(PointerTensor, self.detach().clone())
        if getattr(self, "_is_param", False):
            copied._is_param = True
        copied.requires_grad_(self.requires_grad)
        if self.grad is not None:
            copied.grad = self.grad.__deepcopy__(memo)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: object) -> tuple[Callable[[str], NoReturn], tuple[str]]:
        where = self._object and self._object.location
        if where and where.inherited and threading.current_thread() is not threading.main_thread():
            # A queue between processes pickles in a thread of its own, where an exception reaches nobody while the
            # reader waits for ever. So it is raised where this arrives.
            return forks.refuse, (where.id,)
        raise PointerNotPortableError(
            "a pointer cannot be pickled, saved or copied with copy.copy: it is no value; "
            "get() the value, or deepcopy() the object"
        )

    def numpy(self, *, force: bool = False) -> NoReturn:
        """Refused: a pointer has no memory here."""
        raise PointerNotPortableError("a pointer has no memory here; call get() first, then numpy()")

    def __array__(self, dtype: object = None) -> NoReturn:
        raise PointerNotPortableError("a pointer has no memory here; call get() first")

    def share_memory_(self) -> NoReturn:
        """Refused: a pointer has no memory here."""
        raise PointerNotPortableError("a pointer has no memory here to share")

    def is_shared(self) -> bool:
        """Never: a pointer has no memory here to share."""
        return False

    def untyped_storage(self) -> NoReturn:
        """Refused: a pointer has no memory here."""
        if self._object and self._object.location.inherited:
            forks.refuse(self._object.location.id)
        raise PointerNotPortableError("a pointer has no memory here; call get() first")

    storage = _typed_storage = untyped_storage
    """``_typed_storage`` is where a DataLoader's processes gather a batch."""
    data_ptr = untyped_storage
    pin_memory = untyped_storage  # type: ignore[assignment]
    __dlpack__ = untyped_storage  # type: ignore[assignment]

    # Assignments that must hold at both ends or not at all.

    @property
    def data(self) -> PointerTensor:
        """The same object at the worker, outside autograd."""
        return cast(PointerTensor, self.detach())

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        if not isinstance(other, PointerTensor):
            raise PointerAssignmentError(
                f"the value of a pointer to {self.location.id} cannot be replaced by a local tensor; "
                "send it there first, or use copy_() to upload into the object"
            )
        self.rebind(other)

    def _set_grad(self, gradient: torch.Tensor | None) -> None:
        if gradient is not None and not isinstance(gradient, PointerTensor):
            raise PointerAssignmentError(
                f"the gradient of a pointer to {self.location.id} is a pointer too: send the local tensor there first"
            )
        _grad.__set__(self, gradient)

    grad = property(_grad.__get__, _set_grad, _grad.__delete__)

    def rebind(self, other: PointerTensor) -> None:
        """Makes this very tensor object point where ``other`` points, shape and all."""
        obj, geometry = other.remote, other._geometry
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self._object, self._geometry = obj, geometry


def fetch(pointers: Sequence[PointerTensor]) -> list[torch.Tensor]:
    """The values behind pointers to one worker, in one round trip; the worker's objects stay.

    Raises:
        WorkerError, NetworkError: as ``PointerTensor.get``.
    """
    objects = [pointer.remote for pointer in pointers]
    return objects[0].location.fetch(objects, [pointer._geometry for pointer in pointers]) if objects else []
