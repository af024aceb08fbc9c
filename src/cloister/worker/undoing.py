"""A kernel that raises in the middle of writing: what it had written is put back.

Most kernels look at everything before they write. Those that follow indices, take a probability for each element, or
divide whole numbers, find what they cannot do on their way, and PyTorch leaves the half that is done. To a session what
is refused has had no effect, so the elements that such an operation is about to write are kept until it is through.
Which operations those are was found by ``tools/fuzz``, and by reading the kernels where that pointed to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeAlias

import torch

from cloister.tensor.ops import Op

Kept: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Tensors that an operation writes, each with its elements, or its whole memory, of before."""

_BY_INDEX: Final = (
    "index_put_ _index_put_impl_ index_add_ index_copy_ index_fill_ index_reduce_ put_ scatter_ scatter_add_"
    " scatter_reduce_ masked_scatter_ embedding_renorm_"
)
_BY_PROBABILITY: Final = "bernoulli_"
_BY_TYPE: Final = "eye"  # one that cannot hold a 1
_BY_DIVISOR: Final = "div_ floor_divide_ fmod_ remainder_ pow_ div"
_LATE: Final = {f"aten::{name}": False for name in [*_BY_INDEX.split(), _BY_PROBABILITY, _BY_TYPE]} | {
    f"aten::{name}": True for name in _BY_DIVISOR.split()
}
"""By name without overload: whether only whole numbers make it raise late."""


def keep(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kept:
    """What has to be put back should the call be refused; nothing for an operation that looks before it writes.

    Raises:
        RuntimeError: there is no memory for a copy.
    """
    whole_only = _whole_only(op.name)
    if op.makes:  # and what it makes may be refused, once it has written
        whole_only = False
    if whole_only is None:
        return []
    kept: Kept = []
    for position, name in op.written:
        tensor = args[position] if position < len(args) else kwargs.get(name)
        if isinstance(tensor, torch.Tensor) and not (whole_only and tensor.is_floating_point()):
            kept.append((tensor, _memory_of(tensor).clone() if _overlaps(tensor) else tensor.clone()))
    return kept


@cache
def _whole_only(name: str) -> bool | None:
    return _LATE.get(name.partition(".")[0])


def put_back(kept: Kept) -> None:
    """Undoes what an operation has done to the tensors that were kept; one of another shape now is lost in any case."""
    for tensor, before in kept:
        written = _memory_of(tensor) if _overlaps(tensor) else tensor
        if written.shape == before.shape:
            written.copy_(before)


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether several elements may lie in one place, so that they cannot be written one by one."""
    return torch._debug_has_internal_overlap(tensor) != 0


def _memory_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
