"""Tensors without values, on which the shapes of results are found; no kernel ever runs for them.

PyTorch's ``FakeTensorMode`` falls back to the processor's own kernel for an operation that has no shape function, on
tensors of zeros and with the numbers that the caller gave. Whoever is about to check a stranger's call must not run it
on the way, so that is switched off here. The operations of the table that lack a shape function have one below, and so
have those whose own is wrong about tensors of several element types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten

Shapes = Callable[..., Any]


class Fakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """While it is in force, operations make tensors without values.

    Raises:
        UnsupportedOperatorException: in an operation whose results' shapes nobody can tell.
    """

    def __init__(self) -> None:
        super().__init__(allow_fallback_kernels=False)
        self.cache_enabled = False  # it is the process's, grows without end, and ours answers before it

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        own = OWN.get(func)
        if own is None:
            made = super().__torch_dispatch__(func, types, args, kwargs or {})
            return made if func not in NORMS else self._mixed(cast(Any, made), [*args, *(kwargs or {}).values()])
        with self:
            return own(*args, **(kwargs or {}))

    def _mixed(self, made: tuple[Tensor | None, ...], given: Sequence[Any]) -> tuple[Tensor | None, ...]:
        """What a norm makes where its input is of half precision and other tensors of float32: the first result is of
        the input's type, the others are of float32.
        """
        types = {each.dtype for each in given if isinstance(each, Tensor)}
        halves = types & {torch.float16, torch.bfloat16}
        if torch.float32 not in types or len(halves) != 1:
            return made
        wanted = [*halves, torch.float32, torch.float32]
        with self:
            return tuple(
                None if each is None else torch.empty_like(each, dtype=dtype)
                for each, dtype in zip(made, wanted, strict=True)
            )


# ---- Shape functions. Each takes what its operation takes, and raises where that would. ------------------------------


def _must(holds: bool, text: str) -> None:
    if not holds:
        raise RuntimeError(text)


def _row_major(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _ctc_loss_backward(grad: Tensor, log_probs: Tensor, *rest: Any, **named: Any) -> Tensor:
    return _row_major(log_probs)


def _like_self(grad_output: Tensor, self: Tensor, *rest: Any, **named: Any) -> Tensor:
    """Of the shape of the second argument, which is the input of the forward operation."""
    return _row_major(self)


def _sample(self: Tensor, *rest: Any, **named: Any) -> Tensor:
    _must(self.is_floating_point(), "the parameters of a distribution are floating point")
    return _row_major(self)


def _same_shapes(first: Tensor, *others: Tensor) -> Tensor:
    _must(all(each.shape == first.shape for each in others), "the tensors must be of one shape")
    return _row_major(first)


def _binomial(count: Tensor, prob: Tensor, generator: Any = None) -> Tensor:
    _must(count.shape == prob.shape, "count and prob must be of one shape")
    return _row_major(count)


def _geqrf(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """``a`` is laid out by columns, as LAPACK writes it."""
    _must(matrices.dim() >= 2, "geqrf takes matrices")
    *batch, rows, columns = matrices.shape
    return matrices.new_empty((*batch, columns, rows)).mT, matrices.new_empty((*batch, min(rows, columns)))


def _counted(self: Tensor, bins: Sequence[int], named: Mapping[str, Any]) -> None:
    _must(self.dim() >= 2 and self.shape[-1] == len(bins), "one number of bins for each of the last dimension")
    _must(all(count > 0 for count in bins), "bins must be positive")
    ends = named.get("range")
    _must(ends is None or len(ends) == 2 * len(bins), "range must have two ends for each dimension")


def _bin_edges(self: Tensor, bins: Sequence[int], **named: Any) -> list[Tensor]:
    _counted(self, bins, named)
    return [self.new_empty((count + 1,)) for count in bins]


def _histogram_of_counts(self: Tensor, bins: Sequence[int], **named: Any) -> Tensor:
    _counted(self, bins, named)
    return self.new_empty(tuple(bins))


def _histogram_of_edges(self: Tensor, bins: Sequence[Tensor], **named: Any) -> Tensor:
    _must(self.dim() >= 2 and self.shape[-1] == len(bins), "one tensor of edges for each of the last dimension")
    _must(all(edges.dim() == 1 and edges.shape[0] > 1 for edges in bins), "edges must be vectors of two or more")
    return self.new_empty(tuple(edges.shape[0] - 1 for edges in bins))


def _histogram_count(self: Tensor, bins: int = 100, **named: Any) -> tuple[Tensor, Tensor]:
    _must(bins > 0, "bins must be positive")
    return self.new_empty((bins,)), self.new_empty((bins + 1,))


def _histogram_edges(self: Tensor, bins: Tensor, **named: Any) -> tuple[Tensor, Tensor]:
    _must(bins.dim() == 1 and bins.shape[0] > 1, "edges must be a vector of two or more")
    return self.new_empty((bins.shape[0] - 1,)), self.new_empty(bins.shape)


# Losses and activations, given tensors of several element types: what the kernels of 2.13 make, which is not always
# what PyTorch's shape functions say.


def _loss(self: Tensor, target: Tensor, reduction: int = 1, *rest: Any) -> Tensor:
    return torch.empty_like(self + target, dtype=self.dtype) if reduction == 0 else self.new_empty(())


def _loss_backward(grad_output: Tensor, self: Tensor, target: Tensor, *rest: Any) -> Tensor:
    shapes = self.shape, target.shape, grad_output.shape
    return self.new_empty(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def _threshold_backward(grad_output: Tensor, self: Tensor, threshold: Any) -> Tensor:
    return self + grad_output


def _native_dropout_backward(grad_output: Tensor, mask: Tensor, scale: float) -> Tensor:
    return grad_output * mask * scale


def _rrelu_with_noise_backward(
    grad_output: Tensor, self: Tensor, noise: Tensor, lower: Any, upper: Any, training: bool, self_is_result: bool
) -> Tensor:
    return grad_output * noise if training else self + grad_output


NORMS: Final = frozenset(
    {
        aten.native_batch_norm.default,
        aten.native_batch_norm_backward.default,
        aten.native_group_norm.default,
        aten.native_group_norm_backward.default,
        aten.native_layer_norm.default,
        aten.native_layer_norm_backward.default,
    }
)

OWN: Final[Mapping[OpOverload, Shapes]] = {
    aten._ctc_loss_backward.Tensor: _ctc_loss_backward,
    aten._ctc_loss_backward.default: _ctc_loss_backward,
    aten._dirichlet_grad.default: _same_shapes,
    aten._histogramdd_bin_edges.default: _bin_edges,
    aten._histogramdd_from_bin_cts.default: _histogram_of_counts,
    aten._histogramdd_from_bin_tensors.default: _histogram_of_edges,
    aten._sample_dirichlet.default: _sample,
    aten._standard_gamma_grad.default: _same_shapes,
    aten.binomial.default: _binomial,
    aten.fractional_max_pool3d_backward.default: _like_self,
    aten.geqrf.default: _geqrf,
    aten.histogram.bin_ct: _histogram_count,
    aten.histogram.bins_tensor: _histogram_edges,
    aten.huber_loss.default: _loss,
    aten.huber_loss_backward.default: _loss_backward,
    aten.mse_loss_backward.default: _loss_backward,
    aten.multi_margin_loss_backward.default: _like_self,
    aten.multilabel_margin_loss_backward.default: _like_self,
    aten.native_dropout_backward.default: _native_dropout_backward,
    aten.rrelu_with_noise_backward.default: _rrelu_with_noise_backward,
    aten.smooth_l1_loss_backward.default: _loss_backward,
    aten.soft_margin_loss.default: _loss,
    aten.soft_margin_loss_backward.default: _loss_backward,
    aten.threshold_backward.default: _threshold_backward,
}
