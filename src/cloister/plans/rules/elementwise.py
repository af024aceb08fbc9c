"""Operations that take tensors entry by entry: what they make of a row depends on that row alone."""

from __future__ import annotations

from typing import Final

from cloister.plans.calls import LARGE, Call, Made, Rule, private
from cloister.plans.concerns import Concern
from cloister.plans.facts import Facts
from cloister.plans.layout import UnclearError

_SMOOTH: Final = """
    abs acos acosh add addcdiv addcmul asin asinh atan atanh bernoulli binary_cross_entropy_backward cauchy
    celu clamp clamp_max clamp_min clone complex conj_physical copy cos cosh deg2rad detach digamma div elu
    elu_backward erf erfc erfinv exp exp2 expm1 exponential fill gelu gelu_backward geometric
    hardshrink_backward hardsigmoid hardsigmoid_backward hardswish hardswish_backward hardtanh hardtanh_backward
    hypot i0 ldexp leaky_relu leaky_relu_backward lerp lgamma lift_fresh log log10 log1p log2 log_normal
    log_sigmoid_backward logaddexp logaddexp2 logit logit_backward masked_fill mish mul
    native_dropout_backward neg normal poisson polar positive pow rad2deg random reciprocal relu rrelu_with_noise
    rrelu_with_noise_backward rsqrt rsub sigmoid sigmoid_backward silu silu_backward sin sinc sinh softplus
    softplus_backward softshrink softshrink_backward sqrt square sub tan tanh tanh_backward
    threshold_backward uniform where xlogy zero alias _conj _conj_physical _prelu_kernel huber_loss_backward
    mse_loss_backward smooth_l1_loss_backward soft_margin_loss_backward binary_cross_entropy_with_logits_backward
""".split()
_STEPS: Final = """
    angle atan2 ceil floor floor_divide fmod frac hardshrink heaviside nan_to_num remainder round sgn sign signbit
    threshold trunc bitwise_left_shift bitwise_right_shift __lshift__ __rshift__
""".split()
_EITHER: Final = ("copysign", "fmax", "fmin")
"""They take of one tensor or the other: by a sign, or by what is no number."""
_QUESTIONS: Final = "eq ge gt isinf isnan isneginf isposinf le lt ne".split()
_LOGIC: Final = "bitwise_and bitwise_not bitwise_or bitwise_xor logical_and logical_not logical_or logical_xor".split()
_INTO_FLOATS: Final = frozenset("div exp log mean rsqrt sqrt reciprocal sigmoid tanh erf log1p expm1 sin cos".split())
_THIN: Final = 0.1
"""The least share of entries that dropout may keep without being told: of fifty rows, five."""
_IGNORED_LABEL: Final = -100
"""What losses of PyTorch leave out, unless told otherwise: a row without a label."""


def _smooth(call: Call) -> list[Made]:
    if not call.tensors():
        raise UnclearError("it takes no tensor")
    dims = call.together()
    _tell_steep(call)
    _tell_gate(call)
    if call.base == "bernoulli":
        _tell_thin(call, call.number("p"))
    if call.base == "div" and call.given("rounding_mode") is not None:
        return _steps(call)
    kind = call.kind()
    return [Made(dims, "float" if call.base in _INTO_FLOATS and kind != "complex" else kind)]


def _tell_steep(call: Call) -> None:
    """A very large factor on what depends on a row makes a step of any slope, and one row of many."""
    rows = [value for value in call.tensors() if private(value)]
    if not rows:
        return
    factors = [call.number(name) for name in ("alpha", "beta", "value") if call.base != "threshold"]
    if call.base in ("mul", "pow"):
        factors.append(call.number("other" if call.base == "mul" else "exponent"))
    divisor = call.number("other") if call.base == "div" else None
    if divisor is not None:
        factors.append(1 / divisor if divisor else LARGE)
    most = max((abs(factor) for factor in factors if factor is not None), default=0.0)
    over = most >= (16 if call.base == "pow" else LARGE) and call.base not in ("masked_fill", "fill")
    if over or (call.base == "mul" and any(value.facts.large for value in call.tensors())):
        call.tell(Concern.STEEP, columns=_columns(call))


def _tell_gate(call: Call) -> None:
    """What lets one tensor pass by the sign or size of another is a condition, if that other is a row's own numbers."""
    if not call.base.endswith("_backward") and call.base not in _EITHER:
        return
    names = [argument.name for argument in call.schema.arguments if argument.name != "grad_output"]
    gates = [value for value in map(call.maybe, names) if value is not None and private(value)]
    own = [value for value in gates if not value.facts.model]
    if own and (call.base in _EITHER or len(own) == len(gates)):
        call.tell(Concern.FILTER, columns=_columns(call))


def _tell_thin(call: Call, kept: float | None) -> None:
    call.remarks.add("dropout")
    if kept is None or not kept >= _THIN:
        call.tell(Concern.THIN)


def _steps(call: Call) -> list[Made]:
    """What jumps answers a question, in numbers. Of what the model makes of a row it is the gradient of a loss (``sgn``
    of ``l1_loss``), and tells no more than a unit that is on or off."""
    asking = [value for value in call.tensors() if private(value) and not value.facts.model]
    call.asks = any(value.facts.condition for value in call.tensors()) or bool(asking)
    return [Made(call.together(), call.kind())]


def _questions(call: Call) -> list[Made]:
    dims = call.together()
    call.asks = any(value.by_row and (value.facts.columns or value.facts.random) for value in call.tensors())
    if _part_of_known(call):
        call.asks = False
    return [Made(dims, "bool")]


def _part_of_known(call: Call) -> bool:
    """Whether a comparison belongs to a bound, to a norm, or to a loss that leaves out rows without a label."""
    value, bound = call.value("self"), call.number("other")
    if bound is None:
        return value.facts.model and ((call.given("self"), call.given("other")), True, 0) in call.bounds
    if call.base == "eq" and bound == _IGNORED_LABEL and value.kind == "int" and value.memory.column is not None:
        return True
    if not value.facts.model:
        return False
    if call.base == "eq":
        return bound == 0 and value.memory.maker in ("linalg_vector_norm", "norm")
    return (call.given("self"), call.base in ("ge", "gt"), bound) in call.bounds


def _logic(call: Call) -> list[Made]:
    values = call.tensors()
    asked = any(private(value) and value.kind != "bool" for value in values)
    call.asks = asked or any(value.facts.condition for value in values)
    return [Made(call.together(), call.kind() if call.base.startswith("bitwise") else "bool")]


def _bounded(call: Call) -> list[Made]:
    """A bound; its gradient will ask which values were within it, and may."""
    made = _smooth(call)
    for name, lower in (("min", True), ("max", False)):
        bound = call.number(name)
        if bound is not None:
            call.bounds.add((call.given("self"), lower, bound))
    return made


def _larger(call: Call) -> list[Made]:
    """The larger or smaller of two; its gradient will ask which it was, and may."""
    call.bounds.add(((call.given("self"), call.given("other")), True, 0))
    return _smooth(call)


def _dropout(call: Call) -> list[Made]:
    left_out = call.number("p")
    _tell_thin(call, None if left_out is None else 1 - left_out)
    dims = call.dims("input")
    return [Made(dims, call.kind()), Made(dims, "bool")]


def _twice(call: Call) -> list[Made]:
    made = Made(call.dims("self"), call.kind())
    return [made, made]


def _prelu_backward(call: Call) -> list[Made]:
    made = Made(call.together("grad_output", "self"), call.kind())
    return [made, made]


def _like(call: Call) -> list[Made]:
    """A new tensor of another one's shape; of its values nothing enters."""
    shown = call.value("self")
    call.ignore(shown)
    number = call.number("fill_value")
    call.changes = Facts(large=number is not None and abs(number) >= LARGE)
    return [Made(call.dims("self"), call.dtype() or shown.kind)]


def _cast(call: Call) -> list[Made]:
    value = call.value("self")
    kind = call.dtype() or value.kind
    if kind in ("bool", "int") and value.kind not in ("bool", kind) and private(value):
        call.asks = True  # what lies between two whole numbers is cut off: that asks where it lies
    return [Made(call.dims("self"), kind)]


def _columns(call: Call) -> int:
    found = 0
    for value in call.tensors():
        found |= value.facts.columns
    return found


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_SMOOTH, _smooth),
    **dict.fromkeys(_EITHER, _smooth),
    **dict.fromkeys(_STEPS, _steps),
    **dict.fromkeys(_QUESTIONS, _questions),
    **dict.fromkeys(_LOGIC, _logic),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _bounded),
    **dict.fromkeys("zeros_like ones_like full_like empty_like rand_like randn_like randint_like".split(), _like),
    **dict.fromkeys(("maximum", "minimum"), _larger),
    "native_dropout": _dropout,
    "log_sigmoid_forward": _twice,
    "_prelu_kernel_backward": _prelu_backward,
    "_to_copy": _cast,
}
