"""Losses, whose targets must be classes or labels, and an activation that writes its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch

from cloister.worker.guards.call import Call, Guard, each


def _nll_loss_backward(call: Call) -> None:
    """Targets are classes, or ``ignore_index``."""
    classes = call.tensor("self").shape[-1] if call.tensor("self").dim() else 0
    call.within("target", 0, classes, ignored=call.integer("ignore_index", -100))


def _cross_entropy(call: Call) -> None:
    """Sizes that merely broadcast can leave the result unwritten."""
    call.shaped("target", call.tensor("self").shape)
    if call.maybe("grad_output") is None:
        return
    if call.integer("reduction", 1) == 0:
        call.shaped("grad_output", call.tensor("self").shape)
    else:
        call.counted("grad_output", 1)


def _margin_loss_backward(call: Call) -> None:
    """One gradient a sample where nothing was reduced, else one."""
    scores = call.tensor("self")
    samples = scores.shape[0] if scores.dim() == 2 else 1
    reduction = call.integer("reduction", 1)
    if not 0 <= reduction <= 2:
        call.refuse("reduction", "at least 0 and less than 3")
    call.counted("grad_output", samples if reduction == 0 else 1)
    if call.maybe("is_target") is not None:
        call.shaped("target", scores.shape)
        call.shaped("is_target", scores.shape)


def _ctc_loss(call: Call) -> None:
    """Targets are labels, as far as their lengths reach; what pads them beyond that is never read."""
    scores, targets = call.tensor("log_probs"), call.tensor("targets")
    if scores.dim() != 3 or targets.dim() not in (1, 2):
        call.refuse("targets", "of one or two dimensions, for log_probs of three")
    time, batch, labels = scores.shape
    lengths = call.integers("target_lengths")
    width = targets.shape[-1]
    if len(lengths) != batch or min(lengths, default=0) < 0:
        call.refuse("target_lengths", f"{batch} lengths")
    if (max(lengths, default=0) if targets.dim() == 2 else sum(lengths)) > width:
        call.refuse("target_lengths", f"lengths within the {width} targets")
    steps = call.integers("input_lengths")
    if len(steps) != batch or not all(0 <= step <= time for step in steps):
        call.refuse("input_lengths", f"{batch} lengths of at most {time}")
    if not 0 <= call.integer("blank") < labels:
        call.refuse("blank", f"at least 0 and less than {labels}")
    if targets.dim() == 2:
        targets = targets[: len(lengths)]
        reached = torch.arange(width, device=targets.device) < torch.tensor(lengths, device=targets.device).unsqueeze(1)
        targets = targets[reached] if targets.shape == reached.shape else call.refuse("targets", f"of {batch} rows")
    else:
        targets = targets[: sum(lengths)]
    call.values_within("targets", targets, 0, labels)


def _ctc_loss_backward(call: Call) -> None:
    _ctc_loss(call)
    time, batch, _ = call.tensor("log_probs").shape
    longest = max(call.integers("target_lengths"), default=0)
    call.shaped("log_alpha", [batch, time, 2 * longest + 1])
    call.shaped("neg_log_likelihood", [batch])
    call.shaped("grad", [batch])


def _margin_loss(call: Call) -> None:
    """Reduced, the loss of no samples is a number that nobody wrote."""
    if call.tensor("self").numel() == 0 and call.integer("reduction", 1) != 0:
        call.refuse("self", "not empty, where the loss is reduced")


def _rrelu(call: Call) -> None:
    """The kernel writes as many numbers as ``self`` has elements into ``noise``, one after the other."""
    call.shaped("noise", call.tensor("self").shape)
    call.packed("noise")
    lower, upper = call.scale("lower"), call.scale("upper")
    lower, upper = 1 / 8 if lower is None else lower, 1 / 3 if upper is None else upper
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):  # it would find out after writing
        call.refuse("lower", "finite, and at most upper, which is finite too")


GUARDS: Final[Mapping[str, Guard]] = {
    "aten::nll_loss_backward": _nll_loss_backward,
    **each(["rrelu_with_noise", "rrelu_with_noise_"], _rrelu),
    **each(["binary_cross_entropy", "binary_cross_entropy_backward"], _cross_entropy),
    "aten::multi_margin_loss": _margin_loss,
    **each(["multi_margin_loss_backward", "multilabel_margin_loss_backward"], _margin_loss_backward),
    **each(["_ctc_loss", "_ctc_loss.Tensor"], _ctc_loss),
    **each(["_ctc_loss_backward", "_ctc_loss_backward.Tensor"], _ctc_loss_backward),
}
