"""A plan in words, and as a list of its operations: for a person who runs nobody's code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cloister.plans.following import follow
from cloister.plans.layout import Dims, size
from cloister.plans.results import joined
from cloister.tensor.plan import encoding
from cloister.tensor.plan.listing import listing
from cloister.tensor.plan.program import Program
from cloister.wire.text import quoted

_GROUPS: Final = {
    "matrix product": "mm addmm bmm baddbmm mv addmv dot vdot",
    "convolution": "convolution",
    "batch normalisation": "native_batch_norm",
    "layer normalisation": "native_layer_norm",
    "group normalisation": "native_group_norm",
    "embedding": "embedding",
    "pooling": "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d",
    "softmax": "_softmax _safe_softmax _log_softmax",
    "cross entropy": "nll_loss_forward nll_loss2d_forward",
    "binary cross entropy": "binary_cross_entropy binary_cross_entropy_with_logits",
    "squared error": "mse_loss",
    "Huber loss": "huber_loss smooth_l1_loss",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "hyperbolic tangent": "tanh",
    "random draw": "bernoulli native_dropout rand randn randint randperm normal uniform",
    "comparison": "eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not where "
    "masked_fill",
    "largest or smallest value": "max min amax amin argmax argmin sort topk median",
    "sum or mean": "sum mean var std linalg_vector_norm",
    "pick": "select slice index gather scatter scatter_add index_put index_select select_backward slice_backward",
    "sum, difference, product or quotient": "add sub rsub mul div neg addcmul addcdiv",
    "change of layout": "t transpose permute view _unsafe_view expand squeeze unsqueeze clone _to_copy alias detach "
    "cat stack split unsafe_split unbind split_with_sizes unsafe_split_with_sizes repeat copy",
    "new tensor": "zeros ones full empty arange scalar_tensor zeros_like ones_like full_like empty_like new_zeros "
    "new_ones new_full fill zero eye",
}
_GROUP_OF: Final = {name: group for group, names in _GROUPS.items() for name in names.split()}
_BACKWARD: Final = "gradient of a layer or loss"
_FIXED: Final = "fixed"
_SHOWN_FIXED: Final = 8
"""So many tensors that are fixed are listed; of more, as of a language model's, the number is told."""
_OTHERS: Final = 12
"""So many operations without a group are named; of more, the number is told."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that a plan names: its element type, its shape, and what there is to add."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    note: str = ""

    def __str__(self) -> str:
        shown = f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        return " ".join(part for part in (self.name, shown, self.note) if part)


@dataclass(frozen=True, slots=True)
class Description:
    """A plan in words. Shapes of ``columns`` are a row's, without the batch."""

    digest: bytes
    columns: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    operations: tuple[tuple[str, int], ...]
    """Kinds of operations with how many there are, the most telling kinds first."""
    metrics: tuple[str, ...]
    gradients: tuple[str, ...]
    updates: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(_told(self))


def describe(program: Program) -> Description:
    """A program in words; it is not checked, and nothing of it runs."""
    return Description(
        digest=encoding.digest(encoding.encode(program)),
        columns=tuple(
            Tensor(f"column {at} ({each.name}):", each.dtype, each.row) for at, each in enumerate(program.batch)
        ),
        parameters=tuple(
            Tensor(quoted(each.names[0]), each.dtype, each.shape, "" if each.trained else _FIXED)
            for each in program.parameters
        ),
        buffers=tuple(Tensor(quoted(each.names[0]), each.dtype, each.shape) for each in program.buffers),
        constants=tuple(
            Tensor(f"constant {at}:", each.dtype, each.shape, f"{len(each.data)} bytes")
            for at, each in enumerate(program.constants)
        ),
        operations=_counted(program),
        metrics=tuple(quoted(metric.name) for metric in program.metrics),
        gradients=tuple(
            quoted(held.names[0])
            for held, value in zip(program.parameters, program.gradients, strict=False)
            if value is not None
        ),
        updates=tuple(
            quoted(held.names[0])
            for held, value in zip(program.buffers, program.updates, strict=False)
            if value is not None
        ),
    )


def code(program: Program) -> str:
    """All operations, one a line, with the shapes that can be seen without running anything.

    Raises:
        PlanError: a line names what is not there.
    """
    dtypes = [each.dtype for each in (*program.held, *program.batch, *program.constants)]
    found = follow(program).values
    shown = [f"{dtype}{_shape(value.dims)}" for dtype, value in zip(dtypes, found, strict=False)]
    shown += [_shape(value.dims) for value in found[len(dtypes) :]]
    return listing(program, shown, encoding.digest(encoding.encode(program)))


def _shape(dims: Dims | None) -> str:
    return "[?]" if dims is None else f"[{', '.join(str(size(dim)) for dim in dims)}]"


def _counted(program: Program) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = dict.fromkeys(_GROUPS, 0)
    for line in program.lines:
        name = line.op.removeprefix("aten::").partition(".")[0].removesuffix("_")
        group = _GROUP_OF.get(name, _BACKWARD if "_backward" in name else quoted(name))
        counts[group] = counts.get(group, 0) + 1
    return tuple((group, count) for group, count in counts.items() if count)


def _told(plan: Description) -> Iterator[str]:
    yield f"plan sha256:{plan.digest.hex()}"
    yield f"takes from each row: {joined([str(column) for column in plan.columns])}"
    yield from _listed("the model's parameters", *_few(plan.parameters))
    yield from _listed("the model's buffers", plan.buffers)
    yield from _listed("brings along", plan.constants)
    few = plan.operations[: len(_GROUPS) + _OTHERS]
    more = sum(count for _, count in plan.operations[len(few) :])
    yield "does, in one step:"
    yield from (f"    {group} ({count})" for group, count in few)
    if more:
        yield f"    other operations ({more})"
    yield f"hands out: {joined(list(_handed(plan)))}"


def _few(parameters: Sequence[Tensor]) -> tuple[Sequence[Tensor], str]:
    """The parameters to list, and what to say of the others."""
    fixed = [each for each in parameters if each.note == _FIXED]
    if len(fixed) <= _SHOWN_FIXED:
        return parameters, ""
    values = sum(math.prod(each.shape) for each in fixed)
    return [each for each in parameters if each.note != _FIXED], f"and {len(fixed)} that are fixed: {values:,} values"


def _listed(title: str, tensors: Sequence[Tensor], others: str = "") -> Iterator[str]:
    if tensors or others:
        yield f"{title}:"
        yield from (f"    {tensor}" for tensor in tensors)
        yield from ([f"    {others}"] if others else [])


def _handed(plan: Description) -> Iterator[str]:
    yield "the loss"
    if plan.metrics:
        yield f"metric{'s' if len(plan.metrics) > 1 else ''} {', '.join(plan.metrics)}"
    trained = [each.name for each in plan.parameters if each.note != _FIXED]
    if plan.gradients:
        every = list(plan.gradients) == trained
        yield "a gradient for each trained parameter" if every else f"gradients for {', '.join(plan.gradients)}"
    if plan.updates:
        every = len(plan.updates) == len(plan.buffers)
        yield "a new value for each buffer" if every else f"new values for {', '.join(plan.updates)}"
