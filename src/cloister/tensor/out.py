"""``out=``: a result that goes into a tensor which is there already.

Workers run no operation that writes where it is told to: what such a one does to a target of the wrong shape differs
from one to the next. Here the result is made as without ``out=``, held against the target, and copied into it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._mode_utils import no_dispatch

from cloister.errors import NotColocatedError, OpRefusedError, PointerAssignmentError
from cloister.tensor import ops
from cloister.tensor.dispatch import OTHERWISE, dispatch, issue
from cloister.tensor.pointer import PointerTensor

aten = torch.ops.aten


def _into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation with ``out=``, as one without it and a copy.

    Raises:
        NotColocatedError: the targets and what is computed are not at one worker; nothing was written.
        PointerAssignmentError: a target of another shape, which PyTorch would resize; nothing was written.
        RuntimeError: a target whose element type cannot hold the result; nothing was written.
    """
    names = _targets(func)
    if not names:
        return NotImplemented
    plain = _without_targets(func)
    if plain is None:
        return NotImplemented
    targets: list[Any] = []
    for name in names:
        held = kwargs[name]
        targets += held if isinstance(held, (list, tuple)) else [held]
    location = None
    for target in targets:
        if type(target) is not PointerTensor:
            raise NotColocatedError(f"{func._schema.name} was given pointers, and out= a local tensor; {_BOTH}")
        location = target.location
    rest = {name: value for name, value in kwargs.items() if name not in names}
    row = ops.of_overload(plain) if _is_factory(plain) else None
    made = issue(row, args, rest, location=location) if row else plain(*args, **rest)
    results = list(made) if isinstance(made, (list, tuple)) else [made]
    pairs = list(zip(targets, results, strict=True))
    for target, result in pairs:
        _check(func, target, result)
    for target, result in pairs:
        _write(target, result)
    if len(names) == 1:
        return kwargs[names[0]] if func._schema.returns else None
    return tuple(kwargs[name] for name in names)


_BOTH = "give it a tensor at the worker that has the inputs: worker.zeros(...)"


@cache
def _targets(func: OpOverload) -> tuple[str, ...]:
    """The names of the arguments that are what ``out=`` means."""
    return tuple(argument.name for argument in func._schema.arguments if argument.is_out)


@cache
def _without_targets(func: OpOverload) -> OpOverload | None:
    """The overload that takes the same arguments but for ``out=`` and makes new tensors."""
    wanted = [(argument.name, str(argument.real_type)) for argument in func._schema.arguments if not argument.is_out]
    packet = getattr(aten, func._schema.name.removeprefix("aten::"))
    for name in packet.overloads():
        candidate: OpOverload = getattr(packet, name)
        arguments = candidate._schema.arguments
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in arguments):
            continue
        given = [(a.name, str(a.real_type)) for a in arguments if (a.name, str(a.real_type)) in wanted]
        others = [a for a in arguments if (a.name, str(a.real_type)) not in wanted]
        if given == wanted and all(a.has_default_value() for a in others):
            return candidate
    return None


def _is_factory(plain: OpOverload) -> bool:
    try:
        return ops.of_overload(plain).row.factory
    except OpRefusedError:
        return False


def _check(func: Any, target: PointerTensor, result: object) -> None:
    name = func._schema.name
    if type(result) is not PointerTensor or result.location is not target.location:
        raise NotColocatedError(f"{name} has its inputs in another place than out=; {_BOTH}")
    if not torch.can_cast(result.dtype, target.dtype):
        raise RuntimeError(f"result type {result.dtype} can't be cast to the desired output type {target.dtype}")
    if target.shape != result.shape and target.numel():
        raise PointerAssignmentError(
            f"{name} makes a tensor of shape {list(result.shape)}, and out= has {list(target.shape)}: a pointer is not "
            "resized; give out= a tensor of the right shape, or an empty one"
        )


def _write(target: PointerTensor, result: PointerTensor) -> None:
    if target.shape == result.shape:
        dispatch(aten.copy_.default, (target, result), {})
        return
    if target.dtype != result.dtype:
        result = dispatch(aten._to_copy.default, (result,), {"dtype": target.dtype})
    with no_dispatch():
        target.rebind(result)


OTHERWISE.insert(0, _into)
