"""Memory that an operation hands out without having written it: what another tensor left there must not be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

LEAVE_GAPS: Final = frozenset({"aten::_ctc_loss", "aten::_ctc_loss.Tensor"})
"""Operations that leave part of an output unwritten, beside those that the table marks as ``zero_fill``."""


def zero(tensor: torch.Tensor) -> None:
    """Zeros the whole storage of a new tensor, what lies between its elements included."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    whole.set_(tensor.untyped_storage()).zero_()


def close(arguments: Mapping[str, Any], returned: tuple[torch.Tensor, ...]) -> None:
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
