"""Operations whose time depends on a number that they are given: what would never come to an end is refused.

What takes long because it is given much is a matter of a session's limits, of memory and CPU time. Here are kernels
that count up to an argument, whatever the size of their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from cloister.worker.guards.call import Call, Guard, each

DEGREE: Final = 4096
"""The greatest degree of a polynomial, and the like: a recurrence takes a step for each, at every element."""

_KINDS: Final = (
    *(f"{shifted}chebyshev_polynomial_{kind}" for shifted in ("", "shifted_") for kind in "tuvw"),
    *("hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p"),
)
POLYNOMIALS: Final = tuple(
    f"special_{kind}{overload}" for kind in _KINDS for overload in ("", ".n_scalar", ".x_scalar")
)


def _degree(call: Call) -> None:
    degree = call.argument("n")
    if isinstance(degree, Tensor):
        # A NaN counts as nothing: the kernels make an integer below zero of it.
        over = degree.numel() > 0 and not degree.is_complex() and bool((degree > DEGREE).any())
    else:
        over = isinstance(degree, (int, float)) and degree > DEGREE
    if over:
        call.refuse("n", f"at most {DEGREE}")


def _dimension(call: Call) -> None:
    """The multivariate gamma function is a product of so many others, which PyTorch holds all at once."""
    if call.integer("p") > DEGREE:
        call.refuse("p", f"at most {DEGREE}")


def _random_from(call: Call) -> None:
    """For floating point the kernel looks for the next number that can be written, beyond the last integer too."""
    if call.integer("from") >= torch.iinfo(torch.int64).max:
        call.refuse("from", "less than the greatest 64-bit integer")


def _finite(call: Call) -> None:
    """LAPACK's balancing of a matrix does not end, or crashes, where a value is no number."""
    matrix = call.tensor("self")
    if not bool(torch.isfinite(matrix).all()):
        call.refuse("self", "finite")


def _recurrence(argument: str) -> Guard:
    """The zeta function goes up to 9 in steps of 1, which at 2^24 are no steps any more for a ``float32``."""

    def guard(call: Call) -> None:
        least = call.argument(argument)
        if isinstance(least, Tensor):
            under = least.numel() > 0 and not least.is_complex() and bool((least < -DEGREE).any())
        else:
            under = isinstance(least, (int, float)) and least < -DEGREE
        if under:
            call.refuse(argument, f"at least -{DEGREE}")

    return guard


def _polygamma(call: Call) -> None:
    if call.integer("n") > 1:  # the first two are closed forms, the others zeta functions
        _recurrence("self")(call)


def _counts(call: Call) -> None:
    """Nothing is more than a NaN, for which the kernel waits."""
    if bool(call.tensor("count").isnan().any()):
        call.refuse("count", "a number")


def _repeats(call: Call) -> None:
    """The kernel adds them up in 64 bits. A sum gone round those can be whatever ``output_size`` says, while it writes
    as many indices as the repeats themselves say.
    """
    repeats = call.tensor("repeats")
    if repeats.numel() and not float(repeats.sum(dtype=torch.float64)) < 2.0**62:
        call.refuse("repeats", "less than 2^62 in all")


GUARDS: Final[Mapping[str, Guard]] = {
    **each(POLYNOMIALS, _degree),
    **each(["mvlgamma", "mvlgamma_"], _dimension),
    "aten::random_.from": _random_from,
    "aten::_linalg_eigvals": _finite,
    **each(["special_zeta", "special_zeta.self_scalar", "special_zeta.other_scalar"], _recurrence("other")),
    **each(["polygamma", "polygamma_"], _polygamma),
    "aten::binomial": _counts,
    "aten::repeat_interleave.Tensor": _repeats,
}
