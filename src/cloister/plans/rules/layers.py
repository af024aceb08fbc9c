"""Layers and losses that are one operation: which of their dimensions are rows, and which they sum over."""

from __future__ import annotations

from typing import Final

from cloister.plans.calls import Call, Made, Rule, dims_of
from cloister.plans.concerns import Concern
from cloister.plans.layout import Dim, Dims, UnclearError, broadcast, dim_of, follows_batch, has_rows, size, unify

_LOSSES: Final = """
    mse_loss huber_loss smooth_l1_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits
""".split()
_POOLS: Final = {
    "avg_pool2d": 2,
    "avg_pool3d": 3,
    "max_pool2d_with_indices": 2,
    "max_pool3d_with_indices": 3,
}
_ADAPTIVE: Final = {
    "_adaptive_avg_pool2d": 2,
    "_adaptive_avg_pool3d": 3,
    "adaptive_max_pool2d": 2,
    "adaptive_max_pool3d": 3,
}
_UPSAMPLE: Final = {"upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_bilinear2d": 2}


def _whole(dim: Dim) -> int:
    found = size(dim)
    if type(found) is not int:
        raise UnclearError("it works across the rows of the batch")
    return found


def _convolution(call: Call) -> list[Made]:
    dims, weight = call.dims("input"), call.dims("weight")
    spatial = len(dims) - 2
    if spatial < 1 or len(weight) != len(dims) or has_rows(weight) or has_rows(dims[1:]):
        raise UnclearError("it works across the rows of the batch")
    steps = call.wholes("stride", spatial, 1)
    pads, gaps = call.wholes("padding", spatial), call.wholes("dilation", spatial, 1)
    extra = call.wholes("output_padding", spatial)
    groups, transposed = call.whole("groups", 1), call.given("transposed") is True
    kernel = [_whole(dim) for dim in weight[2:]]
    found = []
    for at, dim in enumerate(dims[2:]):
        reach = gaps[at] * (kernel[at] - 1)
        if transposed:
            found.append(dim_of((_whole(dim) - 1) * steps[at] - 2 * pads[at] + reach + 1 + extra[at]))
        else:
            found.append(dim_of(_windows(_whole(dim) + 2 * pads[at] - reach - 1, steps[at])))
    channels = dim_of(_whole(weight[1]) * groups) if transposed else weight[0]
    return [Made((dims[0], channels, *found), call.kind())]


def _windows(room: int, step: int, *, up: bool = False) -> int:
    if step < 1 or room < 0:
        raise UnclearError("its window does not fit")
    return (room + (step - 1 if up else 0)) // step + 1


def _convolution_backward(call: Call) -> list[Made]:
    gradient, dims, weight = call.dims("grad_output"), call.dims("input"), call.dims("weight")
    if has_rows(weight) or has_rows(dims[1:]) or has_rows(gradient[1:]):
        raise UnclearError("it works across the rows of the batch")
    unify(gradient[0], dims[0])
    bias = () if call.given("bias_sizes") is None else gradient[1:2]
    transposed = call.given("transposed") is True
    channels = dim_of(_whole(weight[1]) * call.whole("groups", 1)) if transposed else weight[0]
    return [Made(each, call.kind()) for each in (dims, weight, bias or (channels,))]


def _pool(call: Call) -> list[Made]:
    spatial = _POOLS[call.base]
    dims = call.dims("self")
    if len(dims) < spatial + 1:
        raise UnclearError("it has too few dimensions")
    kernel = call.wholes("kernel_size", spatial, 1)
    steps = call.wholes("stride", spatial) if call.extents("stride") else kernel
    pads, gaps = call.wholes("padding", spatial), call.wholes("dilation", spatial, 1)
    found = []
    for at, dim in enumerate(dims[-spatial:]):
        room = _whole(dim) + 2 * pads[at] - gaps[at] * (kernel[at] - 1) - 1
        count = _windows(room, steps[at], up=call.flag("ceil_mode"))
        # A last window that begins outside of the image is left out.
        beyond = call.flag("ceil_mode") and (count - 1) * steps[at] >= _whole(dim) + pads[at]
        found.append(dim_of(count - beyond))
    made = Made((*dims[:-spatial], *found), call.kind())
    return [made, Made(made.dims, "int")] if call.base.startswith("max") else [made]


def _adaptive_pool(call: Call) -> list[Made]:
    spatial = _ADAPTIVE[call.base]
    dims = call.dims("self")
    if len(dims) < spatial + 1 or has_rows(dims[-spatial:]):
        raise UnclearError("it works across the rows of the batch")
    made = Made((*dims[:-spatial], *map(dim_of, call.wholes("output_size", spatial))), call.kind())
    return [made, Made(made.dims, "int")] if "max" in call.base else [made]


def _window_backward(call: Call) -> list[Made]:
    """The gradient of a window's mean or largest entry goes to the entries of that window."""
    dims, gradient = call.dims("self"), call.dims("grad_output")
    spatial = 3 if "3d" in call.base else 2
    if len(dims) != len(gradient) or has_rows(dims[-spatial:]) or dims[:-spatial] != gradient[:-spatial]:
        gradient = broadcast([dims[:-spatial], gradient[:-spatial]])
        if gradient != dims[:-spatial] or has_rows(dims[-spatial:]):
            raise UnclearError("it works across the rows of the batch")
    return [Made(dims, call.kind())]


def _upsample(call: Call) -> list[Made]:
    spatial = _UPSAMPLE[call.base]
    dims = call.dims("self")
    if len(dims) != spatial + 2 or has_rows(dims[2:]):
        raise UnclearError("it works across the rows of the batch")
    return [Made((*dims[:2], *map(dim_of, call.wholes("output_size", spatial))), call.kind())]


def _upsample_backward(call: Call) -> list[Made]:
    gradient = call.dims("grad_output")
    extents = call.extents("input_size") or ()
    if len(extents) != len(gradient) or has_rows(gradient[2:]):
        raise UnclearError("it works across the rows of the batch")
    return [Made((*gradient[:2], *(dim_of(each) for each in extents[2:])), call.kind())]


def _batch_norm(call: Call) -> list[Made]:
    """Statistics are means over all rows."""
    dims = call.dims("input")
    if len(dims) < 2 or follows_batch(dims[1]):
        raise UnclearError("it works across the rows of the batch")
    call.remarks.add("BatchNorm")
    _leave_out_running(call, "training")
    statistic = Made(dims[1:2], call.kind())
    return [Made(dims, call.kind()), statistic, statistic]


def _leave_out_running(call: Call, flag: str) -> None:
    """While it is trained, a layer writes its running statistics and reads none."""
    for name in ("running_mean", "running_var"):
        held = call.maybe(name)
        if call.flag(flag) and held is not None:
            call.ignore(held)


def _batch_norm_backward(call: Call) -> list[Made]:
    _leave_out_running(call, "train")
    dims = broadcast([call.dims("input"), call.dims("grad_out")])
    if len(dims) < 2 or follows_batch(dims[1]):
        raise UnclearError("it works across the rows of the batch")
    return [Made(dims, call.kind()), Made(dims[1:2], call.kind()), Made(dims[1:2], call.kind())]


def _layer_norm(call: Call) -> list[Made]:
    dims = call.dims("input")
    within = len(call.extents("normalized_shape") or ())
    if not 0 < within <= len(dims) or has_rows(dims[-within:]):
        raise UnclearError("it works across the rows of the batch")
    statistic = Made((*dims[:-within], *[()] * within), call.kind())
    return [Made(dims, call.kind()), statistic, statistic]


def _layer_norm_backward(call: Call) -> list[Made]:
    dims = broadcast([call.dims("input"), call.dims("grad_out")])
    within = len(call.extents("normalized_shape") or ())
    if not 0 < within <= len(dims) or has_rows(dims[-within:]):
        raise UnclearError("it works across the rows of the batch")
    return [Made(each, call.kind()) for each in (dims, dims[-within:], dims[-within:])]


def _group_norm(call: Call) -> list[Made]:
    backward = call.base.endswith("backward")
    dims = broadcast([call.dims("input"), call.dims("grad_out")]) if backward else call.dims("input")
    if len(dims) < 2 or has_rows(dims[1:]) or dim_of(call.extent("N")) != dims[0]:
        raise UnclearError("it works across the rows of the batch")
    if backward:
        return [Made(each, call.kind()) for each in (dims, dims[1:2], dims[1:2])]
    statistic = Made((dims[0], dim_of(call.whole("group"))), call.kind())
    return [Made(dims, call.kind()), statistic, statistic]


def _glu(call: Call) -> list[Made]:
    dims = call.dims("self")
    at = call.at("dim", len(dims), -1)
    if not dims or follows_batch(dims[at]):
        raise UnclearError("it works across the rows of the batch")
    half = dims if call.base == "glu_backward" else (*dims[:at], dim_of(_whole(dims[at]) // 2), *dims[at + 1 :])
    return [Made(half, call.kind())]


def _loss(call: Call) -> list[Made]:
    dims = call.together()
    return [Made(_reduced(call, dims), call.kind())]


def _reduced(call: Call, dims: Dims) -> Dims:
    how = call.whole("reduction", 1)
    if how not in (0, 1, 2):
        raise UnclearError("it sums in an unknown way")
    return () if how else dims


def _nll(call: Call) -> list[Made]:
    dims, target = call.dims("self"), call.dims("target")
    classes = 1 if call.base.startswith("nll_loss2d") else len(dims) - 1
    if not dims or follows_batch(dims[classes]):
        raise UnclearError("it takes rows for classes")
    each = broadcast([(*dims[:classes], *dims[classes + 1 :]), target])
    _tell_classes(call)
    return [Made(_reduced(call, each), call.kind() and "float"), Made((), "float")]


def _nll_backward(call: Call) -> list[Made]:
    dims, target = call.dims("self"), call.dims("target")
    classes = 1 if call.base.startswith("nll_loss2d") else len(dims) - 1
    if not dims or follows_batch(dims[classes]):
        raise UnclearError("it takes rows for classes")
    broadcast([(*dims[:classes], *dims[classes + 1 :]), target, call.dims("grad_output")])
    _tell_classes(call)
    return [Made(dims, "float")]


def _tell_classes(call: Call) -> None:
    """A class that is computed by a condition is a label like any other, as long as each class has a share of a row;
    weights by class make some rows count more, and those that a row brings along, alone."""
    shares = call.value("self")
    call.lenient = shares.memory.maker == "_log_softmax" and shares.facts.model
    if call.whole("ignore_index", -100) != -100:
        call.remarks.add("labels left out")
    weight = call.maybe("weight")
    if weight is not None:
        call.remarks.add("weights by class")
        if has_rows(dims_of(weight)):
            call.tell(Concern.FILTER, "its weights are of single rows", weight.facts.columns)


RULES: Final[dict[str, Rule]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_ADAPTIVE, _adaptive_pool),
    **dict.fromkeys([f"{name}_backward" for name in (*_POOLS, *_ADAPTIVE)], _window_backward),
    **dict.fromkeys(_UPSAMPLE, _upsample),
    **dict.fromkeys([f"{name}_backward" for name in _UPSAMPLE], _upsample_backward),
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    **dict.fromkeys(("native_group_norm", "native_group_norm_backward"), _group_norm),
    **dict.fromkeys(("glu", "glu_backward"), _glu),
    **dict.fromkeys(_LOSSES, _loss),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), _nll),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), _nll_backward),
}
