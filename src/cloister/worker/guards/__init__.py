"""Checks of hostile arguments that PyTorch's own kernels trust.

Backward operations are meant to be called by autograd with what the forward operation returned; their kernels look at
neither the indices nor, often, the shapes. A caller can name them directly, and then they read and write outside
their tensors. For those that training needs, ``check`` demands what autograd would have given. The others are not in
the table. Each check was found by ``tools/fuzz``, and by reading the kernel where that pointed to one.

A check looks at shapes and at the least and greatest index; what it says names the operation, the argument and what
is allowed, never a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloister.worker.guards import algebra, embeddings, images, losses, norms, series
from cloister.worker.guards.call import Call, Guard

__all__ = ["GUARDED", "check"]

_GUARDS: Final[Mapping[str, Guard]] = {
    **images.GUARDS,
    **losses.GUARDS,
    **embeddings.GUARDS,
    **norms.GUARDS,
    **algebra.GUARDS,
    **series.GUARDS,
}

GUARDED: Final = frozenset(_GUARDS)
"""The overloads that have a check."""


def check(name: str, arguments: Mapping[str, object]) -> None:
    """Refuse arguments that operation ``name`` would follow out of its tensors.

    Args:
        name: the overload, ``aten::nll_loss_backward``.
        arguments: by the names of its schema; absent ones have their defaults.

    Raises:
        HostileIndexError: an index, length or shape is not what the operation relies on.
    """
    guard = _GUARDS.get(name)
    if guard is not None:
        guard(Call(name, arguments))
