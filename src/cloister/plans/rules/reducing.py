"""Operations that make fewer entries of many, and those that work along a dimension.

A sum, a mean, a variance takes all rows alike. Whatever orders rows, or adds them up one after another, does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloister.plans.calls import Call, Made, Rule, dims_of, position
from cloister.plans.concerns import Concern
from cloister.plans.facts import Kind
from cloister.plans.layout import Dims, dim_of, follows_batch

_ADDING: Final = "sum mean var std count_nonzero".split()
_RANKING: Final = "amax amin any all max min argmax argmin median nanmedian mode kthvalue aminmax".split()
_NORMS: Final = ("linalg_vector_norm", "norm")
_ADDED: Final = (0, 1, 2)
"""The orders of norms that add up what rows have; with higher ones the largest outweighs."""


def _chosen(call: Call, dims: Dims) -> list[int]:
    """The dimensions that are taken together; all, where none is named."""
    return [at for at in call.positions("dim", len(dims)) if at < len(dims)]


def _without(call: Call, dims: Dims, chosen: Sequence[int]) -> Dims:
    if call.flag("keepdim"):
        return tuple(() if at in chosen else dim for at, dim in enumerate(dims))
    return tuple(dim for at, dim in enumerate(dims) if at not in chosen)


def _adding(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    kind: Kind | None = call.dtype() or ("int" if value.kind == "bool" else value.kind)
    return [Made(_without(call, dims, _chosen(call, dims)), kind)]


def _two_moments(call: Call) -> list[Made]:
    made = _adding(call)
    return made * 2


def _watched(call: Call, concern: Concern) -> Dims:
    value = call.value("self")
    dims = dims_of(value)
    chosen = _chosen(call, dims)
    if any(follows_batch(dims[at]) for at in chosen):
        call.uneven(concern, value)
    return _without(call, dims, chosen)


def _ranking(call: Call) -> list[Made]:
    dims = _watched(call, Concern.RANK)
    kind = call.kind()
    if call.base in ("any", "all"):
        return [Made(dims, "bool")]
    if call.base in ("argmax", "argmin"):
        return [Made(dims, "int")]
    if call.base == "aminmax":
        return [Made(dims, kind)] * 2
    named = call.given("dim") is not None or call.base in ("mode", "kthvalue")
    return [Made(dims, kind), Made(dims, "int")] if named and call.base not in ("amax", "amin") else [Made(dims, kind)]


def _last_by_default(call: Call) -> list[Made]:
    """Those that work on the last dimension where none is named."""
    if call.given("dim") is not None:
        return _ranking(call)
    value = call.value("self")
    dims = dims_of(value)
    if dims and follows_batch(dims[-1]):
        call.uneven(Concern.RANK, value)
    rest = (*dims[:-1], ()) if call.flag("keepdim") else dims[:-1]
    return [Made(rest, value.kind), Made(rest, "int")]


def _norm(call: Call) -> list[Made]:
    order = call.number("ord" if call.base == "linalg_vector_norm" else "p")
    if call.base == "norm" and call.given("p") is None:
        order = 2
    if call.given("ord") is None and call.base == "linalg_vector_norm":
        order = 2
    if order in _ADDED:
        return [Made(made.dims, "float") for made in _adding(call)]
    return [Made(_watched(call, Concern.OUTWEIGH), "float")]


def _outweighing(call: Call) -> list[Made]:
    return [Made(_watched(call, Concern.OUTWEIGH), call.kind())]


def _softmax(call: Call) -> list[Made]:
    """Shares along a dimension: along rows, one row's share can be nearly all."""
    value = call.value("grad_output" if call.base.endswith("backward_data") else "self")
    dims = call.together()
    at = call.at("dim", len(dims))
    if at < len(dims) and follows_batch(dims[at]):
        call.uneven(Concern.OUTWEIGH, *call.tensors())
    return [Made(dims, call.dtype() or value.kind)]


def _running(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    at = call.at("dim", len(dims))
    if at < len(dims) and follows_batch(dims[at]):
        call.uneven(Concern.RUN, value)
    made = Made(dims, value.kind)
    return [made, Made(dims, "int")] if call.base in ("cummax", "cummin") else [made]


def _sorting(call: Call) -> list[Made]:
    value = call.value("self")
    dims = dims_of(value)
    at = position(-1 if call.given("dim") is None else call.whole("dim"), len(dims))
    if at < len(dims) and follows_batch(dims[at]):
        call.uneven(Concern.RANK, value)
        dims = dims if call.base == "sort" else (*dims[:at], dim_of(call.extent("k")), *dims[at + 1 :])
    elif call.base == "topk" and dims:
        dims = (*dims[:at], dim_of(call.whole("k")), *dims[at + 1 :])
    return [Made(dims, value.kind), Made(dims, "int")]


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_ADDING, _adding),
    **dict.fromkeys(("std_mean", "var_mean"), _two_moments),
    **dict.fromkeys(_RANKING, _ranking),
    **dict.fromkeys(("mode", "kthvalue"), _last_by_default),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(("prod", "logsumexp"), _outweighing),
    **dict.fromkeys(
        ("_softmax", "_log_softmax", "_safe_softmax", "_softmax_backward_data", "_log_softmax_backward_data"), _softmax
    ),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"), _running),
    **dict.fromkeys(("sort", "topk"), _sorting),
}
