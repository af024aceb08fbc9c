"""Normalisation and softmax: saved statistics that must have the shapes which the forward operation gave them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from cloister.worker.guards.call import Call, Guard, each


def _batch_norm(call: Call) -> None:
    """One statistic for each channel."""
    inputs = call.tensor("input")
    channels = inputs.shape[1] if inputs.dim() > 1 else call.refuse("input", "of at least two dimensions")
    for argument in ("weight", "bias", "running_mean", "running_var"):
        call.counted(argument, channels)
    if call.argument("training") is False:
        call.shaped("running_mean", [channels])
        call.shaped("running_var", [channels])


def _batch_norm_backward(call: Call) -> None:
    _batch_norm(call)
    inputs = call.tensor("input")
    call.shaped("grad_out", inputs.shape)
    if inputs.numel() == 0:
        call.refuse("input", "not empty")
    read = ("save_mean", "save_invstd") if call.flag("train") else ("running_mean", "running_var")
    for argument in read:
        call.shaped(argument, [inputs.shape[1]])


def _layer_norm_backward(call: Call) -> None:
    inputs, shape = call.tensor("input"), call.integers("normalized_shape")
    kept = inputs.dim() - len(shape)
    if not shape or kept < 0 or list(inputs.shape[kept:]) != shape:
        call.refuse("normalized_shape", "the last extents of input")
    call.shaped("grad_out", inputs.shape)
    call.packed("mean", "rstd")
    for argument in ("mean", "rstd"):
        call.counted(argument, math.prod(inputs.shape[:kept]))
    for argument in ("weight", "bias"):
        call.counted(argument, math.prod(shape))


def _group_norm(call: Call) -> None:
    """The kernel goes through weight and bias as if nothing lay between their elements."""
    call.packed("weight", "bias")


def _orders(tensor: Tensor) -> list[torch.memory_format]:
    """The memory formats that a tensor of so many dimensions can have."""
    last = {4: [torch.channels_last], 5: [torch.channels_last_3d]}
    return [torch.contiguous_format, *last.get(tensor.dim(), [])]


def _group_norm_backward(call: Call) -> None:
    call.packed("mean", "rstd", "weight")
    pair = call.tensor("grad_out"), call.tensor("input")
    if not any(all(each.is_contiguous(memory_format=order) for each in pair) for order in _orders(pair[1])):
        call.refuse("grad_out", "contiguous, as input is and in the same memory format")
    inputs, groups = call.tensor("input"), call.integer("group")
    samples, channels, places = call.integer("N"), call.integer("C"), call.integer("HxW")
    if groups < 1 or channels % groups or samples * channels * places != inputs.numel():
        call.refuse("group", f"a divisor of the {channels} channels of input")
    call.shaped("grad_out", inputs.shape)
    call.counted("weight", channels)
    for argument in ("mean", "rstd"):
        call.counted(argument, samples * groups)


def _weight_norm(saved: str, *counted: str) -> Guard:
    """One norm for each slice of the weight along its first or last dimension."""

    def guard(call: Call) -> None:
        weight, dim = call.tensor(saved), call.integer("dim")
        if weight.numel() == 0 or dim not in (0, weight.dim() - 1):
            call.refuse("dim", f"the first or last of the dimensions of a {saved} that is not empty")
        for argument in counted:
            call.counted(argument, weight.shape[dim] if weight.dim() else 1)
        for argument in (saved, *counted):
            if not (call.tensor(argument).is_floating_point() and call.tensor(argument).is_contiguous()):
                call.refuse(argument, "floating point, and contiguous")

    return guard


def _weight_norm_backward(call: Call) -> None:
    _weight_norm("saved_v", "saved_g", "saved_norms")(call)
    call.shaped("grad_w", call.tensor("saved_v").shape)
    call.packed("grad_w")


def _softmax_backward(call: Call) -> None:
    call.shaped("grad_output", call.tensor("output").shape)


GUARDS: Final[Mapping[str, Guard]] = {
    "aten::native_batch_norm": _batch_norm,
    "aten::native_batch_norm_backward": _batch_norm_backward,
    "aten::native_layer_norm_backward": _layer_norm_backward,
    "aten::native_group_norm": _group_norm,
    "aten::native_group_norm_backward": _group_norm_backward,
    "aten::_weight_norm_interface": _weight_norm("v", "g"),
    "aten::_weight_norm_interface_backward": _weight_norm_backward,
    **each(["_softmax_backward_data", "_log_softmax_backward_data"], _softmax_backward),
}
