"""Tensors that a step makes from the batch's size: constants that differ between captures, as lines that compute them.

``torch.tensor(x.shape)`` and ``torch.tensor(len(x))`` are such; Keras' losses divide by a product of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from cloister.tensor import ops
from cloister.tensor.plan.batch import fit
from cloister.tensor.plan.program import Affine
from cloister.tensor.plan.tracing import Recorded

_ELEMENTS: Final = 64
"""A shape has far fewer."""
_TYPES: Final = (torch.int32, torch.int64, torch.float32, torch.float64)


def elements(tensors: Sequence[torch.Tensor]) -> list[int | Affine] | None:
    """For a constant as it was in each capture, its elements as whole numbers that follow the batch size; None if they
    are no such."""
    first = tensors[0]
    if first.dtype not in _TYPES or first.numel() > _ELEMENTS or any(each.shape != first.shape for each in tensors):
        return None
    found = []
    for values in zip(*(each.reshape(-1).tolist() for each in tensors), strict=True):
        whole = all(type(value) is int or value.is_integer() for value in values)
        fitted = fit([int(value) for value in values]) if whole else None
        if fitted is None:
            return None
        found.append(fitted)
    return found


def lines(like: torch.Tensor, found: Sequence[int | Affine], fresh: int) -> list[Recorded]:
    """The lines that make a tensor of these elements; the values that they make are numbered from ``fresh`` on, and the
    last is the tensor."""
    full, stack, view = map(ops.by_name, ("aten::full", "aten::stack", "aten::view"))
    named = {"dtype": full.by_name["dtype"].to_wire(like.dtype)}
    made = [Recorded(full, ((), each), named, (fresh + at,), 0) for at, each in enumerate(found)]

    def then(op: ops.Op, *args: Any) -> None:
        made.append(Recorded(op, args, {}, (fresh + len(made),), 0))

    if like.dim():
        then(stack, tuple(line.made[0] for line in made))
    if like.dim() > 1:
        then(view, fresh + len(made) - 1, tuple(like.shape))
    return made
