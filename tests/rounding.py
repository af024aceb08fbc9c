"""What tests ask of numbers that were computed in two ways.

Equal to the bit are the results of *one decomposition on one processor*: the same ATen operations, on equal operands,
with as many threads. A pointer's operations are what PyTorch decomposes an expression into for a device without kernels
of its own. On the CPU PyTorch may choose other ones for the same expression: one product for all the steps of a
recurrent layer, ``addmm`` for ``matmul`` and ``add``, a fused kernel of oneDNN. Then sums are taken in another order,
and the last bits differ where the processor's library says so. `decomposed` has PyTorch take apart here what it takes
apart for pointers, all but recurrent layers, which ask for the device; `WITHIN` is the bound for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

WITHIN: Final = 2.0**-20
"""How far two results in float64 may be apart, relative to a value and, near 0, absolutely.

Where a result takes at most n roundings, each of at most u = 2^-53 relative to what is rounded, and what follows
amplifies an error at most a times, two orders of computing it differ by at most 2 n a u to first order (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 3.4). The layers and models of this suite stay
below n = 2^12, and the largest a among them is below 2^20: a step of Adam, which amplifies an error of a gradient near
0 by lr / eps = 1e-2 / 1e-8. So 2 * 2^12 * 2^20 * 2^-53 = 2^-20; what is computed wrongly differs by far more.
"""


class _AsForPointers(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Within, PyTorch's fused kernels for the CPU step back, as they do for pointers and plans."""
    with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def decomposed() -> Iterator[None]:
    """Within, PyTorch takes composite operations on local tensors apart as it does on pointers."""
    with plain_kernels(), _AsForPointers():
        yield


def assert_equal_within(got: torch.Tensor, expected: torch.Tensor, *, name: str | None = None) -> None:
    """Two results in float64 of one computation, whatever order each took its sums in."""
    assert expected.dtype is torch.float64 or not expected.is_floating_point()
    torch.testing.assert_close(got, expected, rtol=WITHIN, atol=WITHIN, msg=name and (lambda text: f"{name}: {text}"))


def widened(module: nn.Module, *inputs: torch.Tensor) -> tuple[Any, ...]:
    """The module and its inputs in float64; whole numbers stay what they are."""
    return module.double(), *(each.double() if each.is_floating_point() else each for each in inputs)
