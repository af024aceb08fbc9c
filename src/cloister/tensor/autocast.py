"""``torch.autocast`` and pointers: it does not reach them, so that inside of it nothing is computed on them.

PyTorch casts by device, above autograd, and has no casts for the device of pointers. To compute in the types that were
not asked for would be silently wrong.
"""

from __future__ import annotations

import threading
from functools import wraps
from typing import Any, Final

import torch

from cloister.errors import OpRefusedError
from cloister.tensor.pointer import DEVICE

entered = 0
"""How many autocasts are entered, in all threads: while there are none, nobody need ask further."""
_INSTEAD: Final = (
    "cast the model and what goes in, model.bfloat16() and x.bfloat16(), "
    "or write torch.autocast(..., enabled=False) around what is computed on pointers"
)
_UNCHANGED: Final = frozenset({"aten::_to_copy", "aten::copy_", "aten::clone", "aten::zero_", "aten::fill_.Scalar"})
_lock: Final = threading.Lock()


class _Nested(threading.local):
    """Whether each of the autocasts that this thread has entered is enabled; PyTorch's own state cannot be read below
    autograd."""

    def __init__(self) -> None:
        self.enabled: list[bool] = []


_nested: Final = _Nested()


def check(op: Any) -> None:
    """Refuses an operation on pointers inside of an autocast that is enabled, unless it could make no difference.

    Raises:
        OpRefusedError: it could.
    """
    if not _nested.enabled or not _nested.enabled[-1]:
        return
    if op.views is None and not op.row.factory and op.name not in _UNCHANGED:
        raise OpRefusedError(
            f"torch.autocast does not reach workers, and {op} would be computed without it: {_INSTEAD}"
        )


def install() -> None:
    """Has every ``torch.autocast`` counted, and one for the device of pointers say at once that there is none."""
    autocast: Any = torch.autocast
    made, enter, leave = autocast.__init__, autocast.__enter__, autocast.__exit__

    @wraps(made)
    def init(
        self: Any,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if device_type == DEVICE.type:
            if enabled:
                raise OpRefusedError(f"torch.autocast does not reach workers: {_INSTEAD}")
            device_type = "cpu"
        made(self, device_type, dtype, enabled, cache_enabled)

    @wraps(enter)
    def entering(self: Any) -> Any:
        returned = enter(self)
        _nested.enabled.append(self._enabled)
        _count(1)
        return returned

    @wraps(leave)
    def leaving(self: Any, *exception: Any) -> Any:
        _count(-1)
        _nested.enabled.pop()
        return leave(self, *exception)

    autocast.__init__, autocast.__enter__, autocast.__exit__ = init, entering, leaving


def _count(change: int) -> None:
    global entered
    with _lock:
        entered += change
