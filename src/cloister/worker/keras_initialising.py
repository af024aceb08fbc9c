"""How Keras' initialisers first fill a variable, as a draw of a recipe."""

from __future__ import annotations

import math
from typing import Any, Final

from cloister.models.recipe import Draw
from cloister.tensor.keras_models import KerasVariable

NORMAL_BOUND: Final = 5.0
"""Where a recipe cuts the tails of normal draws that are whole: so many standard deviations from the mean."""
_CUT: Final = 2.0
"""Where Keras cuts those of a truncated normal."""
_SHRUNK: Final = 0.87962566103423978
"""The standard deviation of a standard normal that is cut there."""

Source = tuple[Draw, dict[str, float]]


def source_of(held: KerasVariable) -> Source | None:
    """Where the variable's values come from, by its layer's initialiser; None where there is no rule."""
    initializer = initializer_of(held)
    kind = type(initializer)
    if not kind.__module__.startswith("keras.src."):  # the script's own may do anything
        return None
    match kind.__name__:
        case "Zeros" | "Ones":
            return "constant", {"value": float(kind.__name__ == "Ones")}
        case "Constant" if isinstance(initializer.value, (int, float)):
            return "constant", {"value": float(initializer.value)}
        case "RandomUniform":
            return "uniform", {"low": initializer.minval, "high": initializer.maxval}
        case "RandomNormal":
            return _normal(initializer.mean, initializer.stddev, NORMAL_BOUND)
        case "TruncatedNormal":
            return _normal(initializer.mean, initializer.stddev, _CUT)
    return _scaled(initializer, tuple(held.tensor.shape)) if hasattr(initializer, "distribution") else None


def initializer_of(held: KerasVariable) -> Any:
    """The initialiser that a layer says it has for a variable; None if it says nothing, or fills it in another way."""
    names = (held.variable.name, held.variable.name.removesuffix("_kernel"), "depthwise")
    if held.variable.name == "bias" and getattr(held.layer, "unit_forget_bias", False):
        return None
    found = (getattr(held.layer, f"{name}_initializer", None) for name in names)
    return next((each for each in found if each is not None), None)


def _scaled(initializer: Any, shape: tuple[int, ...]) -> Source:
    """``VarianceScaling``, which those of Glorot, He and LeCun are, too."""
    fan_in, fan_out = _fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[initializer.mode]
    variance = initializer.scale / max(1.0, fan)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3.0 * variance)
        return "uniform", {"low": -limit, "high": limit}
    if initializer.distribution == "untruncated_normal":
        return _normal(0.0, math.sqrt(variance), NORMAL_BOUND)
    return _normal(0.0, math.sqrt(variance) / _SHRUNK, _CUT)


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Keras' fan_in and fan_out: the last two dimensions are inputs and outputs, those before them the kernel's."""
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def _normal(mean: float, std: float, bound: float) -> Source:
    return "normal", {"mean": mean, "std": std, "low": mean - bound * std, "high": mean + bound * std}
