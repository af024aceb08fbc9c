"""A pytest plugin: a processor whose matrix products round by their shape.

``make test ARGS="-p tests.other_arithmetic"`` runs the suite on it. A library for matrix products is free to choose the
order of its sums by shape, instruction set and thread; on some processors two ways of asking for one product (``addmm``
of two dimensions, or ``matmul`` and ``add``) then differ in their last bits, and on others never do. Here they always
do: PyTorch's kernels for products are replaced by ones that compute in float64 and then move each value by at most one
unit in its last place, up or down as the operation's name and shapes decide, unless it needed no rounding. The same
operation on the same operands still gives the same bits. A test that is green here leans on that alone.
"""

from __future__ import annotations

import warnings
import zlib
from typing import Any, Final

import numpy as np
import torch

_PRODUCTS: Final = ("mm", "bmm", "mv", "dot")
_SUMS: Final = ("addmm", "baddbmm", "addmv")
_ROUNDED: Final = frozenset({torch.float32, torch.float64})

_library: Final = torch.library.Library("aten", "IMPL")
"""Kept, because PyTorch's own kernels come back with its end."""


def _moved(exact: torch.Tensor, name: str, operands: tuple[torch.Tensor, ...]) -> torch.Tensor:
    values = exact.to(operands[-1].dtype)
    if values.dtype not in _ROUNDED:
        return values
    shapes = ",".join(str(tuple(operand.shape)) for operand in operands)
    draws = np.random.default_rng(zlib.crc32(f"{name} {shapes}".encode()))
    ways = torch.from_numpy(draws.choice([-np.inf, np.nan, np.inf], size=tuple(values.shape)))
    # No processor rounds what needs no rounding.
    stays = ways.isnan() | (values == exact if values.dtype is torch.float32 else values == values.round())
    towards = torch.where(stays, values.double(), ways).to(values.dtype)
    return torch.nextafter(values, towards)


def _exactly(a: torch.Tensor, b: torch.Tensor) -> np.ndarray[Any, Any]:
    wide = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
    if a.shape[-1] != b.shape[-2 if b.dim() > 1 else 0]:
        raise RuntimeError(f"{tuple(a.shape)} and {tuple(b.shape)} cannot be multiplied")
    first, second = (each.detach().resolve_conj().resolve_neg().to(wide.get(each.dtype, each.dtype)) for each in (a, b))
    if first.is_floating_point():  # not by BLAS, whose sums differ from processor to processor
        return np.asarray(np.einsum("...ij,...jk->...ik", *_matrices(first, second))).reshape(_shape(a, b))
    return np.asarray(np.matmul(first.numpy(), second.numpy()))


def _matrices(a: torch.Tensor, b: torch.Tensor) -> tuple[Any, Any]:
    return (a if a.dim() > 1 else a[None]).numpy(), (b if b.dim() > 1 else b[:, None]).numpy()


def _shape(a: torch.Tensor, b: torch.Tensor) -> tuple[int, ...]:
    return (*a.shape[:-1], *b.shape[-1:]) if b.dim() > 1 else tuple(a.shape[:-1])


def _product(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _moved(torch.from_numpy(_exactly(a, b)), name, (a, b))


def _sum(name: str, added: torch.Tensor, a: torch.Tensor, b: torch.Tensor, beta: Any, alpha: Any) -> torch.Tensor:
    product = torch.from_numpy(_exactly(a, b)) * alpha
    whole = product if beta == 0 else product + added.detach().to(product.dtype) * beta
    return _moved(whole, name, (added, a, b))


def _replace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels are overridden
        for name in _PRODUCTS:
            _replace_product(name)
        for name in _SUMS:
            _replace_sum(name)


def _replace_product(name: str) -> None:
    _library.impl(name, lambda a, b: _product(name, a, b), "CPU")

    def into(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        made = _product(name, a, b)
        return out.resize_(made.shape).copy_(made)

    _library.impl(f"{name}.out", into, "CPU")


def _replace_sum(name: str) -> None:
    def fresh(added: Any, a: torch.Tensor, b: torch.Tensor, *, beta: Any = 1, alpha: Any = 1) -> torch.Tensor:
        return _sum(name, added, a, b, beta, alpha)

    def in_place(added: Any, a: torch.Tensor, b: torch.Tensor, *, beta: Any = 1, alpha: Any = 1) -> torch.Tensor:
        return added.copy_(_sum(name, added, a, b, beta, alpha))

    def into(added: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1, out: torch.Tensor) -> torch.Tensor:
        made = _sum(name, added, a, b, beta, alpha)
        return out.resize_(made.shape).copy_(made)

    _library.impl(name, fresh, "CPU")
    _library.impl(f"{name}_", in_place, "CPU")
    _library.impl(f"{name}.out", into, "CPU")


_replace()
