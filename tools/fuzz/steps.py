"""The steps of a session as lists of plain values: one line of JSON each, which a person reads and the tool runs again.

["put", 1, "float32", [2, 3], 0.5]                  hold this tensor (its values, or the one they all have) as 1
["call", "aten::add.Tensor", [1, 1], {}, [2], null] run this, with these arguments, outputs and seed
["free", [1]]   ["fetch", [2]]   ["tag", 2]   ["search", 9]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from cloister.tensor.geometry import DTYPE_NAMES, DTYPES
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.wire.tensors import TensorSpec

Step = list[Any]

TAGS = ("fuzzed",)


def put(id: int, tensor: torch.Tensor) -> Step:
    """The step that holds a tensor's values."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1).tolist()
    same = flat[0] if flat and all(value == flat[0] for value in flat) else flat
    return ["put", id, DTYPE_NAMES[tensor.dtype], list(tensor.shape), same]


def value(dtype: str, shape: list[int], values: Any) -> torch.Tensor:
    """The tensor of a ``put``."""
    kind = DTYPES[dtype]
    real = torch.empty(0, dtype=kind).real.dtype if kind.is_complex else kind
    count = math.prod(shape) * (2 if kind.is_complex else 1)
    flat = torch.tensor(values if isinstance(values, list) else [values] * count, dtype=real)
    return torch.view_as_complex(flat.reshape(*shape, 2)) if kind.is_complex else flat.reshape(shape)


def command(step: Step) -> tuple[m.Command | m.Question, list[torch.Tensor]]:
    """What a step says on the wire, through its bytes, and the values that go with it.

    Raises:
        WireError: it cannot be said.
        ValueError: no such step.
    """
    match step:
        case ["put", id, dtype, shape, values]:
            return _travelled(m.Put(id, TensorSpec(dtype, tuple(shape)))), [value(dtype, shape, values)]
        case ["call", op, args, kwargs, outs, seed]:
            return _travelled(m.Call(op, args, kwargs, tuple(outs), seed, 0)), []
        case ["free", ids]:
            return _travelled(m.Free(tuple(ids))), []
        case ["tag", id]:
            return _travelled(m.Tag(id, TAGS)), []
        case ["fetch", ids]:
            return m.Fetch(tuple(ids)), []
        case ["search", first]:
            return m.Search(TAGS, first), []
    raise ValueError(f"no such step: {step}")


def _travelled(said: m.Command) -> m.Command:
    decoded: m.Command = m.decode(Kind.BATCH, encode(m.Batch([said]))).commands[0]
    return decoded


def ids_of(step: Step) -> Iterator[int]:
    """The objects that a call names among its arguments; some of these numbers may be none."""
    todo = [step[2], list(step[3].values())] if step[0] == "call" else [step[1:2]]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(item)
        elif type(item) is int:
            yield item


def made_by(step: Step) -> list[int]:
    """The ids that a step gives."""
    return list(step[4]) if step[0] == "call" else step[1:2] if step[0] in ("put", "search") else []


def name_of(step: Step) -> str:
    """The operation of a call, else what the step is."""
    return step[1] if step[0] == "call" else step[0]
