"""A model's update as one flat vector, made with PyTorch. The layout is that of ``cloister.wire.layout``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from cloister.errors import ConfigurationError, TrainingError
from cloister.tensor.geometry import DTYPES
from cloister.tensor.held import buffers_of, parameters_of, saved_in
from cloister.wire.layout import Layout, lay_out
from cloister.worker.values import spec_of

SMALLEST_NORM: Final = 1e-30
"""No update is clipped to less: below it float32 values are rounded too coarsely for a norm to be kept."""

WHOLE: Final = (slice(None),)
"""The one region of a vector whose parts count alike."""

_BLOCK: Final = 1 << 20
"""Elements that are worked on at a time, so that no float64 copy of a model is made."""
_SLACK: Final = 2.0**-22
"""By how much scaling float32 values may round their norm up, relatively: half of it in the scale, half in the values.
"""
_DOUBT: Final = 2.0**-30
"""By how much two norms of one vector may differ, relatively, that were added up in different orders."""


def floats_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What of a module is learned and averaged: its floating-point parameters and buffers, by name.

    A tied weight comes under its first name. Buffers that are not saved with the module (``persistent=False``) are
    computed anew wherever it runs and are left out, as in its ``state_dict``.
    """
    named = {**parameters_of(module), **buffers_of(module)}
    saved = saved_in(module)
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and id(tensor) in saved}


def layout_of(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """The layout of these tensors' vector.

    Raises:
        MessageError: one of them is no floating-point tensor.
    """
    return lay_out({name: spec_of(tensor) for name, tensor in tensors.items()})


@torch.no_grad()
def flatten(tensors: Mapping[str, torch.Tensor], *, layout: Layout) -> torch.Tensor:
    """The vector of these tensors, on the CPU: a copy.

    Raises:
        ConfigurationError: other names, shapes or element types than the layout has.
    """
    _check(tensors, layout)
    vector = torch.empty(layout.length, dtype=DTYPES[layout.dtype])
    for name, spec, start, stop in layout.places:
        vector[start:stop].view(spec.shape).copy_(tensors[name])
    return vector


@torch.no_grad()
def unflatten(vector: torch.Tensor, *, layout: Layout, into: Mapping[str, torch.Tensor]) -> None:
    """Writes the vector's values into the tensors, in place, rounded to their element types.

    Raises:
        ConfigurationError: other names, shapes or element types than the layout has; then nothing is written.
    """
    _check(into, layout)
    _check_vector(vector, layout)
    for name, spec, start, stop in layout.places:
        into[name].copy_(vector[start:stop].view(spec.shape))


@torch.no_grad()
def delta(tensors: Mapping[str, torch.Tensor], *, start: torch.Tensor, layout: Layout) -> torch.Tensor:
    """What training changed: the tensors' vector minus ``start``, the vector that it began with.

    Raises:
        ConfigurationError: other names, shapes or element types than the layout has.
        TrainingError: a value that is not finite; the message names the tensor.
    """
    _check_vector(start, layout)
    change = flatten(tensors, layout=layout).sub_(start)
    if not math.isfinite(_norm(change)):
        check_finite({name: change[first:last] for name, _, first, last in layout.places})
    return change


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """
    Raises:
        TrainingError: a value that is not finite; the message names the tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise TrainingError(
                f"training led to values in {name!r} that are not finite; a lower learning rate, clipped "
                "gradients, or data without NaN and infinite values may help"
            )


@torch.no_grad()
def deltas(tensors: Mapping[str, torch.Tensor], *, start: torch.Tensor, layout: Layout) -> torch.Tensor:
    """``delta`` for many models at once, whose tensors are stacked along a first dimension: of shape
    ``(models, layout.length)``.

    Raises:
        TrainingError: a value that is not finite, or a delta whose norm is not.
    """
    models = len(next(iter(tensors.values())))
    changes = torch.empty(models, layout.length, dtype=DTYPES[layout.dtype])
    for name, spec, first, last in layout.places:
        changes[:, first:last].view(models, *spec.shape).copy_(tensors[name])
    changes.sub_(start)
    if not bool(norms(changes).isfinite().all()):
        raise TrainingError("training led to values that are not finite")
    return changes


@torch.no_grad()
def clip_each(vectors: torch.Tensor, *, limit: float, regions: Sequence[slice] = WHOLE) -> torch.Tensor:
    """``clip`` for each row of ``vectors``, which ``deltas`` gave."""
    found = norms(vectors, regions=regions)
    scales = torch.where(within(found, limit), 1.0, limit / found * (1 - _SLACK))
    clipped = vectors.clone()
    for region in regions:
        clipped[:, region] = vectors[:, region].double().mul_(scales[:, None])
    return clipped


def within(found: Any, limit: float) -> Any:
    """Whether a norm, or each of a tensor of norms, is such that nothing is clipped."""
    return found <= limit * (1 - _DOUBT)


def norms(vectors: torch.Tensor, *, regions: Sequence[slice] = WHOLE) -> torch.Tensor:
    """``norm`` of each row of ``vectors``, in float64."""
    found = torch.zeros(len(vectors), dtype=torch.float64)
    for each in regions:
        found = torch.hypot(found, torch.linalg.vector_norm(vectors[:, each], dim=1, dtype=torch.float64))
    return found


@torch.no_grad()
def norm(vector: torch.Tensor, *, regions: Sequence[slice] = WHOLE) -> float:
    """The L2 norm of a vector, or of some regions of it, computed in float64.

    Raises:
        TrainingError: a value that is not finite, or a norm that is not.
    """
    found = math.hypot(*(_norm(vector[each]) for each in regions))
    if not math.isfinite(found):
        raise TrainingError("an update holds values that are not finite, or whose norm is not")
    return found


@torch.no_grad()
def clip(vector: torch.Tensor, *, limit: float, regions: Sequence[slice] = WHOLE) -> torch.Tensor:
    """The vector, scaled down in some regions, all by the same, to the L2 norm ``limit`` where those have more: the
    vector itself, or a copy.

    The scale is a little below ``limit / norm``, by less than 1e-6, so that whoever checks the result in float64, in
    whatever order, finds no more than ``limit``.

    Raises:
        ConfigurationError: a limit that is not finite, or below ``SMALLEST_NORM``.
        TrainingError: as ``norm``.
    """
    if not (math.isfinite(limit) and limit >= SMALLEST_NORM):
        raise ConfigurationError(f"the norm to clip to is {limit}; it is a number of at least {SMALLEST_NORM}")
    found = norm(vector, regions=regions)
    if within(found, limit):
        return vector
    scale = limit / found * (1 - _SLACK)  # may be too small for a float32, which the scaled values need not be
    clipped = torch.empty_like(vector) if regions is WHOLE else vector.clone()
    for region in regions:
        pairs = zip(torch.split(vector[region], _BLOCK), torch.split(clipped[region], _BLOCK), strict=True)
        for block, scaled in pairs:
            scaled.copy_(block.double() * scale)
    return clipped


def _norm(vector: torch.Tensor) -> float:
    # hypot does not overflow where squares would; within a block of float64 values the largest is taken out first.
    return math.hypot(*(_block_norm(block) for block in torch.split(vector, _BLOCK)))


def _block_norm(block: torch.Tensor) -> float:
    if block.dtype == torch.float64 and block.numel():
        largest = float(block.abs().max())
        if largest and math.isfinite(largest):
            return largest * float(torch.linalg.vector_norm(block / largest))
    return float(torch.linalg.vector_norm(block, dtype=torch.float64))


def _check(tensors: Mapping[str, torch.Tensor], layout: Layout) -> None:
    names = {place.name for place in layout.places}
    if names != set(tensors):
        strange = ", ".join(sorted(names ^ set(tensors))[:5])
        raise ConfigurationError(f"the tensors are not those of the model's layout; they differ in {strange}")
    for place in layout.places:
        found = spec_of(tensors[place.name])
        if found != place.spec:
            raise ConfigurationError(f"tensor {place.name!r} is {found} where the model's layout has {place.spec}")


def _check_vector(vector: torch.Tensor, layout: Layout) -> None:
    if vector.shape != (layout.length,) or vector.dtype != DTYPES[layout.dtype]:
        raise ConfigurationError(
            f"a vector of {vector.dtype} and shape {tuple(vector.shape)} where the model's has {layout.length} values "
            f"of {layout.dtype}"
        )
