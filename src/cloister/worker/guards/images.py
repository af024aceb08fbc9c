"""Pooling, padding and resampling: windows and indices that must lie within an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from cloister.worker.guards.call import Call, Guard, each

_LARGEST_PAD: Final = 2**31 - 1
_FARTHEST: Final = 2.0**64
"""So far from the image may a place be, which no extent makes infinite; places between -1 and 1 lie in it."""
_SCALES: Final = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}


def _pool_backward(spatial: int) -> Guard:
    """Gradients of pools: as many samples and channels as the input."""

    def guard(call: Call) -> None:
        grad, inputs = call.tensor("grad_output"), call.tensor("self")
        if grad.dim() != inputs.dim() or grad.shape[:-spatial] != inputs.shape[:-spatial]:
            call.refuse("grad_output", f"of as many samples and channels as self, {list(inputs.shape[:-spatial])}")
        if grad.numel() and not inputs.numel():
            call.refuse("self", "not empty")

    return guard


def _max_pool_backward(spatial: int) -> Guard:
    """Indices count the places of one input plane."""
    same_batch = _pool_backward(spatial)

    def guard(call: Call) -> None:
        same_batch(call)
        call.shaped("indices", call.tensor("grad_output").shape)
        call.within("indices", 0, math.prod(call.tensor("self").shape[-spatial:]))

    return guard


def _raw_max_pool_backward(spatial: int) -> Guard:
    """As above, for kernels that would take what lies between the indices for indices."""
    known = _max_pool_backward(spatial)

    def guard(call: Call) -> None:
        call.packed("indices")
        known(call)

    return guard


def _fractional_pool(call: Call) -> None:
    """Samples place the windows; beyond 0..1 these lie outside the input."""
    samples = call.tensor("random_samples")
    if samples.numel() and not bool(((samples >= 0) & (samples <= 1)).all()):
        call.refuse("random_samples", "from 0 to 1")


def _pads(call: Call, spatial: int, *, reflected: bool) -> list[int]:
    """The extents after padding the last ``spatial`` dimensions; pads come as pairs, last dimension first."""
    extents, pads = list(call.tensor("self").shape), call.integers("padding")
    if len(pads) != 2 * spatial or len(extents) < spatial:
        call.refuse("padding", f"{2 * spatial} integers")
    for at in range(spatial):
        before, after, extent = pads[2 * at], pads[2 * at + 1], extents[-1 - at]
        most = extent - 1 if reflected else _LARGEST_PAD
        if not (-extent <= before <= most and -extent <= after <= most and extent + before + after > 0):
            call.refuse("padding", f"at least {-extent} and at most {most} on either side, leaving something over")
        extents[-1 - at] = extent + before + after
    return extents


def _pad(spatial: int, *, reflected: bool) -> Guard:
    def guard(call: Call) -> None:
        _pads(call, spatial, reflected=reflected)

    return guard


def _pad_backward(spatial: int, *, reflected: bool) -> Guard:
    def guard(call: Call) -> None:
        call.shaped("grad_output", _pads(call, spatial, reflected=reflected))

    return guard


def _upsample(spatial: int) -> Guard:
    """A scale that does not belong to the sizes moves the filter off the input."""

    def guard(call: Call) -> None:
        extents = call.integers("input_size") if call.maybe("self") is None else list(call.tensor("self").shape)
        outputs = call.integers("output_size")
        if len(extents) != spatial + 2 or len(outputs) != spatial:
            call.refuse("output_size", f"{spatial} extents, for a tensor of {spatial + 2}")
        for argument, extent, wanted in zip(_SCALES[spatial], extents[2:], outputs, strict=True):
            scale = call.scale(argument)
            if scale is not None and not (0 < scale < math.inf and math.floor(extent * scale) >= wanted):
                call.refuse(argument, f"enough to make {wanted} of {extent}")

    return guard


def _grid_sampler(spatial: int, *, backward: bool) -> Guard:
    """Unknown modes leave the output unwritten; places that are no number lead the gradient's kernel off the image."""
    modes = 3 if spatial == 2 else 2

    def guard(call: Call) -> None:
        if not 0 <= call.integer("interpolation_mode") < modes:
            call.refuse("interpolation_mode", f"at least 0 and less than {modes}")
        if not 0 <= call.integer("padding_mode") < 3:
            call.refuse("padding_mode", "at least 0 and less than 3")
        if backward:
            call.shaped("grad_output", [*call.tensor("input").shape[:2], *call.tensor("grid").shape[1:-1]])
            call.bounded("grid", _FARTHEST)

    return guard


def _unfold_backward(call: Call) -> None:
    """The gradient has a window of ``size`` for every ``step`` along one dimension of the input."""
    sizes, dim = call.integers("input_sizes"), call.integer("dim")
    size, step = call.integer("size"), call.integer("step")
    if not sizes and dim in (0, -1) and size in (0, 1) and step > 0:  # a single value has at most one window
        call.shaped("grad_in", [size])
        return
    if not -len(sizes) <= dim < len(sizes) or step < 1 or not 0 <= size <= sizes[dim]:
        call.refuse("size", "at most the extent of an existing dimension, with a step of at least 1")
    windows = list(sizes)
    windows[dim] = (sizes[dim] - size) // step + 1
    call.shaped("grad_in", [*windows, size])


_PADS: Final[Mapping[str, Guard]] = {
    f"aten::{kind}_pad{spatial}d{suffix}": guard(spatial, reflected=kind == "reflection")
    for kind in ("reflection", "replication")
    for spatial in (1, 2, 3)
    for suffix, guard in (("", _pad), ("_backward", _pad_backward))
}
_MAXIMA: Final = ("adaptive_max_pool{}d", "fractional_max_pool{}d", "max_pool{}d_with_indices")
_FILTERS: Final = {
    1: ("upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_linear1d"),
    2: (
        *("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
        *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa"),
    ),
    3: ("upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_trilinear3d"),
}
_RESAMPLERS: Final[Mapping[str, Guard]] = {
    f"aten::{name}{suffix}": _upsample(spatial)
    for spatial, names in _FILTERS.items()
    for name in names
    for suffix in ("", "_backward")
}

GUARDS: Final[Mapping[str, Guard]] = {
    **_PADS,
    **_RESAMPLERS,
    **each(["_adaptive_avg_pool2d_backward", "avg_pool2d_backward"], _pool_backward(2)),
    **each(["_adaptive_avg_pool3d_backward", "avg_pool3d_backward"], _pool_backward(3)),
    **each((f"{pool.format(2)}_backward" for pool in _MAXIMA), _max_pool_backward(2)),
    **each((f"{pool.format(3)}_backward" for pool in _MAXIMA), _max_pool_backward(3)),
    "aten::fractional_max_pool2d_backward": _raw_max_pool_backward(2),
    **each(["adaptive_max_pool3d_backward", "fractional_max_pool3d_backward"], _raw_max_pool_backward(3)),
    **each(["fractional_max_pool2d", "fractional_max_pool3d"], _fractional_pool),
    "aten::grid_sampler_2d": _grid_sampler(2, backward=False),
    "aten::grid_sampler_2d_backward": _grid_sampler(2, backward=True),
    "aten::grid_sampler_3d": _grid_sampler(3, backward=False),
    "aten::grid_sampler_3d_backward": _grid_sampler(3, backward=True),
    "aten::unfold_backward": _unfold_backward,
}
