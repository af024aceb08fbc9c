"""Arguments of ATen overloads, and how they are bent: sizes, numbers, indices, element types, strides, emptiness."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from cloister.tensor import optable
from cloister.tensor.geometry import DTYPES
from tools.fuzz.valid import Arguments, Valid

INTS = [
    -(2**63), -(2**31) - 1, -1000, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 100, 1000,
    2**31 - 1, 2**31, 2**32 + 5, 2**40, 2**62, 2**63 - 1, 2**64 - 1,
]  # fmt: skip
INDICES = [-(2**63), -(2**40), -(2**31), -5000, -2, -1, 0, 1, 2, 3, 5, 17, 1000, 2**31 - 1, 2**40, 2**63 - 1]
FLOATS = [0.0, -1.0, 1.0, 0.5, 2.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")]
UNBENT = ("Optional[Device]", "Optional[Layout]", "Optional[Generator]")  # a worker fixes them itself
KINDS = sorted(DTYPES.values(), key=str)


def straight(draw: random.Random, name: str, valid: Valid) -> Arguments:
    """Arguments of an overload: of a valid call, or where none is known, of the types that its schema names."""
    if calls := valid.get(name):
        return dict(tree_map_only(torch.Tensor, torch.clone, dict(draw.choice(calls))))
    schema = packet(name)._schema
    arguments = {a.name: invent(draw, str(a.real_type)) for a in schema.arguments if not a.has_default_value()}
    if draw.random() < 0.7:
        _make_alike(draw, arguments)
    return arguments


def drawn(draw: random.Random, name: str, valid: Valid) -> Arguments:
    """Arguments of an overload, some of them bent."""
    schema, arguments = packet(name)._schema, straight(draw, name, valid)
    for _ in range(draw.choice([0, 0, 0, 1, 1, 1, 2, 3])):
        argument = draw.choice(schema.arguments)
        kind = str(argument.real_type)
        if (argument.name in arguments or draw.random() < 0.3) and kind not in UNBENT:
            old = arguments.get(argument.name)
            try:
                bent = bend(draw, name, argument.name, kind, invent(draw, kind) if old is None else old)
            except (RuntimeError, IndexError, ValueError, TypeError, OverflowError):
                continue  # a bend that this tensor does not take
            arguments[argument.name] = bent
    return arguments


def _make_alike(draw: random.Random, arguments: Arguments) -> None:
    """Gives all tensors one shape, and mostly one element type."""
    first = next((value for value in arguments.values() if isinstance(value, torch.Tensor)), None)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and first is not None and value is not first:
            dtype = first.dtype if draw.random() < 0.8 else value.dtype
            arguments[name] = torch.rand(first.shape).mul(4).to(dtype)


def packet(name: str) -> Any:
    base, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def invent(draw: random.Random, kind: str) -> Any:
    """A harmless value of a schema's type."""
    if kind.startswith("Optional["):
        return invent(draw, kind[9:-1])
    if kind.startswith("List["):
        return [invent(draw, kind[5:-1]) for _ in range(draw.choice([1, 2, 2, 3]))]
    if kind == "Tensor":
        shape = [draw.choice([1, 2, 3, 4]) for _ in range(draw.choice([0, 1, 2, 2, 3, 4]))]
        torch.manual_seed(draw.randrange(2**31))
        if draw.random() < 0.35:
            return torch.randint(0, 4, shape)
        return torch.rand(shape)
    made: dict[str, Callable[[], Any]] = {
        "int": lambda: draw.choice([0, 1, 2, 3]),
        "float": lambda: draw.choice([0.5, 1.0]),
        "number": lambda: draw.choice([1, 0.5, 2]),
        "bool": lambda: draw.random() < 0.5,
        "ScalarType": lambda: torch.float32,
    }
    return made.get(kind, lambda: None)()


def bend(draw: random.Random, name: str, argument: str, kind: str, value: Any) -> Any:
    """``value`` made hostile, still of its schema's type."""
    optional = kind.startswith("Optional[")
    kind = kind[9:-1] if optional else kind
    if optional and (value is None or draw.random() < 0.15):
        return None
    if kind.startswith("List["):
        return bend_list(draw, name, argument, kind[5:-1], list(value) if isinstance(value, (list, tuple)) else [value])
    if isinstance(value, torch.Tensor):
        return bend_tensor(draw, value)
    if kind == "str":
        return draw.choice(sorted(optable.load()[name].strings[argument]))
    if kind == "number":
        return draw.choice([draw.choice(INTS), draw.choice(FLOATS), True, complex(1, 2)])
    if kind == "float":
        return draw.choice(FLOATS)
    if kind == "bool":
        return not value
    if kind == "ScalarType":
        return draw.choice(KINDS)
    if kind == "int":
        return value + draw.choice([-1, 1]) if draw.random() < 0.3 else draw.choice(INTS)
    return value


def bend_list(draw: random.Random, name: str, argument: str, kind: str, values: list[Any]) -> list[Any]:
    how = draw.randrange(6)
    if how == 0:
        return values[:-1]
    if how == 1:
        return values + values[-1:]
    if how == 2 and kind == "int":
        return [draw.choice(INTS)] * len(values)
    if values:
        at = draw.randrange(len(values))
        old = values[at]
        values[at] = bend(draw, name, argument, kind, invent(draw, kind) if old is None else old)
    return values


def bend_tensor(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.dtype.is_floating_point and not tensor.dtype.is_complex and draw.random() < 0.5 and tensor.numel():
        info = torch.iinfo(tensor.dtype) if tensor.dtype is not torch.bool else torch.iinfo(torch.uint8)
        hostile = min(max(draw.choice(INDICES), info.min), info.max)
        if draw.random() < 0.5:
            tensor = torch.full_like(tensor, hostile)
        else:
            tensor.view(-1)[draw.randrange(tensor.numel())] = hostile
        return tensor
    return draw.choice(BENDS)(draw, tensor)


def _resize(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    shape = list(tensor.shape)
    if not shape:
        return tensor.new_full([draw.choice([0, 1, 2, 5])], 1)
    at = draw.randrange(len(shape))
    shape[at] = draw.choice([0, 1, max(shape[at] - 1, 0), shape[at] + 1, shape[at] * 3 + 2])
    flat = tensor.reshape(-1)
    count = 1
    for extent in shape:
        count *= extent
    repeated = flat.repeat(count // max(flat.numel(), 1) + 1) if flat.numel() else tensor.new_ones([count])
    return repeated[:count].clone().reshape(shape)


def _hostile_float(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    return torch.full_like(tensor, draw.choice(FLOATS))


BENDS: list[Callable[[random.Random, torch.Tensor], torch.Tensor]] = [
    _resize,
    _resize,
    _resize,
    _hostile_float,
    lambda draw, t: t.to(draw.choice(KINDS)),
    lambda draw, t: t.unsqueeze(draw.randrange(t.dim() + 1)),
    lambda draw, t: t.select(draw.randrange(t.dim()), 0).clone() if t.dim() and min(t.shape) else t,
    lambda draw, t: t.mT if t.dim() > 1 else t,
    lambda draw, t: t[..., :1].expand(t.shape) if t.dim() and t.shape[-1] else t,
    lambda draw, t: t.new_empty([0]),
    lambda draw, t: t.new_ones([]),
    lambda draw, t: torch.stack([t, t], -1).select(-1, 0),
    lambda draw, t: t.new_ones([draw.choice([1, 2, 3, 8]) for _ in range(draw.choice([1, 2, 3, 4, 5, 6]))]),
]
