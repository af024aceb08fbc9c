"""Calls that are refused by their form, before their outputs' shapes are even worked out.

The executor asks once for each combination of shapes; after that its cache of outlines answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from cloister.errors import OpRefusedError
from cloister.tensor.ops import Of, Op, arguments_by_name
from cloister.wire.limits import LIST_ITEMS

_KEEPS_SHAPE: Final = "aten::detach_"
_REINTERPRETS: Final = "aten::view.dtype"


def check(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Refuses what would change the shape of an object that the session holds, more outputs than may have ids, and
    numbers that make shapes lie.

    Raises:
        OpRefusedError: such a call. Callers of good faith never make one.
    """
    named = arguments_by_name(op, args, kwargs)
    missing = [param.name for param in op.params if param.required and param.name not in named]
    if missing:
        raise OpRefusedError(f"{op} needs its argument {missing[0]}")
    if not op.row.factory and not any(map(_names_a_tensor, named.values())):
        # PyTorch would compute with the numbers at once, where shapes alone are asked for.
        raise OpRefusedError(f"{op} needs a tensor among its arguments")
    if not 0 <= named.get("reduction", 1) <= 2:
        # Kernels take another one for one of these, and shape functions for a different one.
        raise OpRefusedError(f"{op}: reduction must be 0, 1 or 2")
    if torch.Tag.inplace_view in op.overload.tags and op.name != _KEEPS_SHAPE:
        raise OpRefusedError(f"{op} would change an object's shape; make a view of it instead")
    if op.name == _REINTERPRETS and (named["dtype"] is torch.bool) is not (named["self"].dtype is torch.bool):
        # A bool of another byte than 0 or 1 is undefined, and kernels count with it.
        raise OpRefusedError(f"{op} would show bytes of another type as bool, or the reverse; convert with to()")
    if "out" in op.by_name:
        _check_out(op, named)
    if Of.TENSORS in op.returns and _parts(op.name, named) > LIST_ITEMS:
        raise OpRefusedError(f"{op} would make more than {LIST_ITEMS} tensors at once")


def _names_a_tensor(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, torch.Tensor) for item in value)
    return isinstance(value, torch.Tensor)


def _check_out(op: Op, named: Mapping[str, Any]) -> None:
    """PyTorch would grow an ``out`` that is too small, past any limit."""
    shapes = {
        name: torch.empty(0, dtype=value.dtype, device="meta") if name == "out" else value.to("meta")
        for name, value in named.items()
        if isinstance(value, torch.Tensor)
    }
    try:
        made = op.overload(**{**named, **shapes})
    except Exception:  # noqa: BLE001 - the same call is about to fail in its proper place
        return
    if made.shape != named["out"].shape:
        raise OpRefusedError(f"{op} may not change the shape of its out")


def _parts(name: str, named: Mapping[str, Any]) -> int:
    """How many tensors an operation that returns a list will make; 0 if its arguments make no sense."""
    whole, dim = named.get("self"), named.get("dim", 0)
    if not isinstance(whole, torch.Tensor) or not -whole.dim() <= dim < whole.dim():
        return 0
    if name == "aten::unbind.int":
        return int(whole.shape[dim])
    size = named.get("split_size")
    return -(-whole.shape[dim] // size) if isinstance(size, int) and size > 0 else 0
