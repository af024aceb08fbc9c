"""What becomes of one operation on pointers: a command to the worker that holds them, and pointers to what it will
return.

Everything here runs below autograd, for each operation, so it is the hot path of the interactive way of working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import local
from typing import Any, Final, NoReturn, TypeAlias

import torch
from torch.utils._mode_utils import no_dispatch

from cloister.errors import ImplicitDownloadError, NotColocatedError, OpRefusedError, PointerAssignmentError
from cloister.tensor import autocast, call_sites, ops
from cloister.tensor.geometry import Geometry
from cloister.tensor.inference import Outline, outline_of
from cloister.tensor.ops import LITERALS, Of, Op, Param
from cloister.tensor.pointer import DEVICE, OTHER_DEVICE, PointerTensor, fetch
from cloister.tensor.session import Location, RemoteObject
from cloister.tensor.wording import reworded
from cloister.wire.sessions import Call

aten = torch.ops.aten

# Operations that take an index held by the caller, as CUDA takes one from the CPU.
_INDEXING: Final = frozenset({"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs one ATen operation, at least one of whose arguments is a pointer.

    Raises:
        RuntimeError, IndexError, ValueError, NotImplementedError: as PyTorch raises for these shapes and types.
        NotColocatedError: tensors of different places.
        OpRefusedError: an operation that no worker runs.
    """
    op = _plain.get(id(func))
    if op is not None:
        return issue(op, args, kwargs)
    special = SPECIAL.get(func)
    if special is not None:
        return special(func, args, kwargs)
    try:
        op = ops.of_overload(func)
    except OpRefusedError:
        for way in OTHERWISE:
            try:
                made = way(func, args, kwargs)
            except (RuntimeError, AssertionError) as fault:
                raise reworded(fault) from None
            if made is not NotImplemented:
                return made
        raise
    _plain[id(func)] = op
    return issue(op, args, kwargs)


_plain: Final[dict[int, Op]] = {}
"""Operations that were met and are nothing special, by where PyTorch's overload is, whose hash is computed in Python;
an ``Op`` holds its overload, so that none other is ever there."""


def issue(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], *, location: Location | None = None) -> Any:
    """Has a worker run ``op``; by default the one that holds the pointers among the arguments."""
    if op.views is not None and torch.is_inference_mode_enabled() and not args[op.views].is_inference():
        # A view under torch.inference_mode of a tensor from before it is none of inference, or PyTorch refuses it.
        with torch.inference_mode(False):
            return issue(op, args, kwargs, location=location)
    if autocast.entered:
        autocast.check(op)
    if location is None:
        first = args[0] if args else None
        known = first._object if type(first) is PointerTensor else None
        location = _location_of(op, args, kwargs) if known is None else known.location
    key: list[object] = []
    wire: list[Any] = []
    uploads: list[RemoteObject] = []  # Held until the command that needs them is queued.
    for param, value in zip(op.params, args):  # noqa: B905  - strict= costs, and PyTorch has counted them
        if type(value) is PointerTensor and (obj := value._object) is not None and obj.location is location:
            key.append(value._geometry)
            wire.append(obj.id)
        else:
            _encode(op, param, value, location, key, wire, uploads)
    named = _encode_named(op, kwargs, location, key, uploads) if kwargs else {}
    outline = op.outlines.get(shapes := tuple(key)) or outline_of(op, shapes, args, kwargs, _geometry_of)
    seed = _draw(kwargs.get("generator")) if op.random else None
    call = Call(op.name, wire, named, (), seed, location.site())
    if op.inplace:
        location.post(call)
        return args[0]
    if outline.single is not None:
        made = location.new_object()
        call.outs = (made.id,)
        location.post(call, nbytes=outline.nbytes)
        return PointerTensor.make(made, outline.single)
    if outline.data_dependent:
        return _issue_and_ask(op, location, args, call)
    objects = [None if geometry is None else location.new_object() for geometry in outline.geometries]
    call.outs = tuple([0 if obj is None else obj.id for obj in objects])
    location.post(call, nbytes=outline.nbytes)
    return _returned(op, outline, objects, args, kwargs)


def _encode_named(
    op: Op, kwargs: dict[str, Any], location: Location, key: list[object], uploads: list[RemoteObject]
) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in kwargs.items():
        param = op.by_name[name]
        if param.of is not Of.UNSENT and param.of is not Of.GENERATOR:
            key.append(name)
            held: list[Any] = []
            _encode(op, param, value, location, key, held, uploads)
            named[name] = held[0]
    return named


def _issue_and_ask(op: Op, location: Location, args: tuple[Any, ...], call: Call) -> Any:
    """An operation whose output shapes depend on values: they are asked for, which takes a round trip."""
    objects = [location.new_object() for _ in op.returns]
    call.outs = tuple(obj.id for obj in objects)
    location.post(call)
    return _returned(op, Outline(op, location.describe(objects)), objects, args, {})


def _location_of(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Location:
    for tensor in _tensors_in((*args, *kwargs.values())):
        if type(tensor) is PointerTensor:
            return tensor.remote.location
    raise OpRefusedError(f"{op} was given no pointer")


def _tensors_in(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) in (list, tuple):
            yield from _tensors_in(value)


def _encode(
    op: Op,
    param: Param,
    value: Any,
    location: Location,
    key: list[object],
    wire: list[Any],
    uploads: list[RemoteObject],
) -> None:
    """Adds one argument to the cache key and to the command."""
    of = param.of
    if value is None:
        key.append(None)
        wire.append(None)
    elif type(value) in LITERALS and of is not Of.TENSOR:
        key.append(type(value))
        if param.value_in_key:
            key.append(value)
        wire.append(value)
    elif isinstance(value, torch.Tensor):
        geometry, id = _place(op, param, value, location, uploads)
        key.append(geometry)
        wire.append(id)
    elif of is Of.TENSORS:
        placed = [(None, None) if item is None else _place(op, param, item, location, uploads) for item in value]
        key.append(tuple([geometry for geometry, _ in placed]))
        wire.append([id for _, id in placed])
    elif of is Of.TENSOR:
        key.append(type(value))
        wire.append([param.to_wire(value)])
    elif of is Of.UNSENT or of is Of.GENERATOR:
        wire.append(None)
    else:
        sent = param.to_wire(value)
        key.append(sent)
        wire.append(sent)


def _place(
    op: Op, param: Param, tensor: torch.Tensor, location: Location, uploads: list[RemoteObject]
) -> tuple[Geometry, int]:
    """Where a tensor argument is; a local one is uploaded exactly where CUDA would take one from the CPU."""
    if type(tensor) is PointerTensor:
        obj = tensor.remote
        if obj.location is not location:
            raise NotColocatedError(_apart(op, location.id, obj.location.id))
        return tensor._geometry, obj.id
    index = op.name in _INDEXING and param.of is Of.TENSORS
    if tensor.is_meta or param.written or (tensor.dim() and not index):
        raise NotColocatedError(_mixed(op, tensor, location.id))
    uploads.append(location.put(tensor))
    return Geometry.contiguous(tensor.dtype, tuple(tensor.shape)), uploads[-1].id


def _apart(op: object, here: str, there: str) -> str:
    return (
        f"{op} met tensors at {here} and at {there}; move one of them first: "
        f"pointer.move({here}) or pointer.move({there})"
    )


def _mixed(op: object, local: torch.Tensor, there: str) -> str:
    what = f"{str(local.dtype).removeprefix('torch.')}{list(local.shape)}"
    if local.is_meta:
        return (
            f"{op} met a tensor at {there} and a meta tensor {what}, which has no values; "
            f"make it at the worker, with {there}.zeros(...) and the like"
        )
    return f"{op} met a tensor at {there} and a local tensor {what}: send({there}) the local one, or get() the other"


def require_together(func: Any, values: Iterable[Any]) -> None:
    """Refuses what does not belong together before PyTorch's own code does, which does not know where pointers are.

    Raises:
        NotColocatedError: tensors of different places among ``values``.
    """
    tensors = list(_tensors_in(values))
    pointer = next((tensor for tensor in tensors if type(tensor) is PointerTensor), None)
    if pointer is None:
        return
    there = pointer.location
    for tensor in tensors:
        if type(tensor) is PointerTensor:
            if tensor.location is not there:
                raise NotColocatedError(_apart(func._schema.name, there.id, tensor.location.id))
        elif not isinstance(tensor, PointerTensor) and tensor.dim():
            raise NotColocatedError(_mixed(func._schema.name, tensor, there.id))


def _geometry_of(tensor: torch.Tensor) -> Geometry:
    if type(tensor) is PointerTensor:
        return tensor._geometry
    return Geometry.contiguous(tensor.dtype, tuple(tensor.shape))


def _draw(generator: torch.Generator | None) -> int:
    """A seed from the caller's generator, so that ``torch.manual_seed`` reproduces a run."""
    return int(torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=generator, device="cpu").item())


def _returned(
    op: Op, outline: Outline, objects: Sequence[RemoteObject | None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What PyTorch would return: pointers in the form that the schema says."""
    fresh = iter(
        [
            None if obj is None or geometry is None else PointerTensor.make(obj, geometry)
            for obj, geometry in zip(objects, outline.geometries, strict=True)
        ]
    )
    lengths = iter(outline.lists)
    returned: list[Any] = []
    for kind in op.returns:
        if isinstance(kind, int):
            returned.append(args[kind] if kind < len(args) else kwargs[op.params[kind].name])
        elif kind is Of.TENSORS:
            returned.append([next(fresh) for _ in range(next(lengths))])
        else:
            returned.append(next(fresh))
    return returned[0] if len(returned) == 1 else tuple(returned) or None


# Operations that mean something else on a pointer.


class _Forwards(local):
    under_way = 0


forwards: Final = _Forwards()
"""How many ``forward``s of sent modules are under way in this thread."""


_PADDING: Final = torch.nn.utils.rnn.pad_packed_sequence.__code__
"""PyTorch's own code brings the order of packed sequences home, which follows from their lengths; those were here."""


def refuse_in_forward(location: Location) -> None:
    """Refuses a download that nobody wrote down as one: a library's ``to("cpu")`` would bring the data home.

    Raises:
        ImplicitDownloadError: a sent module's ``forward`` is under way.
    """
    if forwards.under_way and not call_sites.within(_PADDING):
        raise ImplicitDownloadError(
            f"{call_sites.asked_for()} would bring values home from {location.id}, inside the forward of a module that "
            f"was sent, where nothing comes home unasked; keep them at {location.id}, or write get(keep=True) there"
        )


def _alias(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PointerTensor:
    """``detach`` and the like: the same object, so nothing needs to happen at the worker."""
    if torch.is_inference_mode_enabled() and not args[0].is_inference():  # as in issue()
        with torch.inference_mode(False):
            return PointerTensor.make(args[0].remote, args[0]._geometry)
    return PointerTensor.make(args[0].remote, args[0]._geometry)


def _item(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | int | float | complex:
    (value,) = fetch([args[0]])
    return value.item()


def _is_same_size(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args[0].shape == args[1].shape)


def _tangent(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Zeros that lie in memory as the second tensor does: forward differentiation copies a tangent into them."""
    primal = args[1]
    if kwargs.get("self_num_batch_dims", 0) or type(primal) is not PointerTensor:
        raise OpRefusedError("forward differentiation here takes a tangent that lies in memory as its tensor does")
    geometry = primal._geometry
    whole = dispatch(aten.new_zeros.default, (primal, [geometry.storage_bytes // geometry.dtype.itemsize]), {})
    return dispatch(aten.as_strided.default, (whole, geometry.shape, geometry.strides, geometry.offset), {})


def _same_numel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    def elements(tensor: torch.Tensor) -> int:
        geometry = _geometry_of(tensor)
        return geometry.storage_bytes // geometry.dtype.itemsize

    return elements(args[0]) == elements(args[1])


def _is_pinned(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return False


def _equal(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if args[0].shape != args[1].shape:
        return False
    same = dispatch(aten.all.default, (dispatch(aten.eq.Tensor, args, {}),), {})
    return bool(_item(func, (same,), {}))


def _allclose(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    dispatch(aten.eq.Tensor, args[:2], {})  # refuses what does not fit together
    values: list[Any] = [fetch([tensor])[0] if type(tensor) is PointerTensor else tensor for tensor in args[:2]]
    return torch.allclose(*values, *args[2:], **kwargs)


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """``copy_``: an upload, a download, or a copy at the worker."""
    target, source = args[0], args[1]
    if type(target) is not PointerTensor:
        refuse_in_forward(source.location)
        (values,) = fetch([source])
        return target.copy_(values)  # type: ignore[no-any-return]
    if type(source) is not PointerTensor and not source.is_meta:
        source = PointerTensor.make(target.location.put(source), _geometry_of(source))
    return issue(ops.of_overload(func), (target, source), {})  # type: ignore[no-any-return]


def _convert(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """``to``: towards the CPU it is a download; any other device is the owner's business."""
    device = kwargs.get("device")
    if device is None or device == DEVICE:
        return issue(ops.of_overload(func), args, kwargs)  # type: ignore[no-any-return]
    if device.type != "cpu":
        raise OpRefusedError(OTHER_DEVICE)
    refuse_in_forward(args[0].location)
    (values,) = fetch([args[0]])
    return func(values, *args[1:], **kwargs)  # type: ignore[no-any-return]


def _resize(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    if tuple(args[1]) == tuple(args[0].shape):
        return args[0]  # type: ignore[no-any-return]
    _refuse_assignment(func, args, kwargs)


def _refuse_assignment(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    raise PointerAssignmentError(
        f"{func} would tear a pointer from its value; use copy_() for values, or make a new tensor for a new shape"
    )


def _reshape_in_place(view: Any) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], PointerTensor]:
    """``t_`` and the like change what the caller sees of a tensor: here, a view of the object takes its place."""

    def reshape(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PointerTensor:
        pointer: PointerTensor = args[0]
        viewed: PointerTensor = issue(ops.of_overload(view), args, kwargs)
        with no_dispatch():
            pointer.rebind(viewed)
        return pointer

    return reshape


def _in_parts(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Under ``torch.inference_mode`` composite operations arrive whole, which autograd would have taken apart."""
    return func.decompose(*args, **kwargs)


Way: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
SPECIAL: Final[dict[Any, Way]] = {
    aten.detach.default: _alias,
    aten.alias.default: _alias,
    aten.lift_fresh.default: _alias,
    aten._local_scalar_dense.default: _item,
    aten.is_same_size.default: _is_same_size,
    aten._has_same_storage_numel.default: _same_numel,
    aten._new_zeros_with_same_feature_meta.default: _tangent,
    aten.is_pinned.default: _is_pinned,
    aten.equal.default: _equal,
    aten.allclose.default: _allclose,
    aten.copy_.default: _copy,
    aten._to_copy.default: _convert,
    aten.t_.default: _reshape_in_place(aten.t.default),
    aten.transpose_.default: _reshape_in_place(aten.transpose.int),
    aten.squeeze_.default: _reshape_in_place(aten.squeeze.default),
    aten.squeeze_.dim: _reshape_in_place(aten.squeeze.dim),
    aten.squeeze_.dims: _reshape_in_place(aten.squeeze.dims),
    aten.unsqueeze_.default: _reshape_in_place(aten.unsqueeze.default),
    aten.as_strided_.default: _reshape_in_place(aten.as_strided.default),
    aten.resize_.default: _resize,
    aten.resize_as_.default: _refuse_assignment,
    aten.set_.default: _refuse_assignment,
    aten.set_.source_Tensor: _refuse_assignment,
    aten.set_.source_Storage: _refuse_assignment,
    aten.set_.source_Storage_storage_offset: _refuse_assignment,
    aten.set_.source_Tensor_storage_offset: _refuse_assignment,
}
"""What is done instead of issuing an operation; ``cloister.tensor.sequences`` has more of them."""
OTHERWISE: Final[list[Way]] = [_in_parts]
"""What is tried, in turn, for an operation that no worker runs as it is; a way that is none answers
``NotImplemented``. ``cloister.tensor.foreach`` and ``cloister.tensor.out`` are others."""

PointerTensor.dispatch = staticmethod(dispatch)
