"""Memory that an operation hands out without having written it: what another tensor left there must not be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from cloister.worker.guards.series import POLYNOMIALS


def zero(tensor: torch.Tensor) -> None:
    """Zeros the whole storage of a new tensor, what lies between its elements included."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    whole.set_(tensor.untyped_storage()).zero_()


def _close_alignments(arguments: Mapping[str, Any], returned: tuple[torch.Tensor, ...]) -> None:
    """Writes what ``_ctc_loss`` leaves unwritten of its second output, ``log_alpha`` of ``(sequences, steps, states)``:
    what lies beyond the end of the shorter sequences, which its backward never reads.
    """
    log_alpha = returned[1]
    _, steps, states = log_alpha.shape
    inputs = torch.as_tensor(arguments["input_lengths"], device=log_alpha.device).reshape(-1, 1, 1)
    targets = torch.as_tensor(arguments["target_lengths"], device=log_alpha.device).reshape(-1, 1, 1)
    step = torch.arange(steps, device=log_alpha.device).reshape(1, -1, 1)
    state = torch.arange(states, device=log_alpha.device)
    log_alpha.masked_fill_((step >= inputs) | (state > 2 * targets), -torch.inf)


def _close_polynomial(arguments: Mapping[str, Any], returned: torch.Tensor) -> None:
    """Writes what a polynomial is of NaN, from the second degree on: the recurrence stops at NaN before its first step,
    and what is returned then is a variable of the kernel that nobody wrote, which can hold addresses.
    """
    x, degree = (torch.as_tensor(arguments[name], device=returned.device) for name in ("x", "n"))
    returned.masked_fill_(x.isnan() & (degree >= 2), torch.nan)


_CLOSING: Final[Mapping[str, Callable[[Mapping[str, Any], Any], None]]] = {
    "aten::_ctc_loss": _close_alignments,
    "aten::_ctc_loss.Tensor": _close_alignments,
    **{f"aten::{name}": _close_polynomial for name in POLYNOMIALS},
}

LEAVE_GAPS: Final = frozenset(_CLOSING)
"""Operations that leave part of an output unwritten, beside those that the table marks as ``zero_fill``."""


def close(name: str, arguments: Mapping[str, Any], returned: Any) -> None:
    """Writes what operation ``name``, one of ``LEAVE_GAPS``, has left unwritten of what it returned."""
    _CLOSING[name](arguments, returned)
