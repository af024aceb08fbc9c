"""Memory that nobody wrote: PyTorch hands it out as it comes, a worker does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cloister.worker.guards.series import POLYNOMIALS
from tests.worker.sessions import Session

SECRET = 1234.5
SIZES = [1, 3, 16, 31, 100, 257, 1000, 4096, 10_000, 65_536]
"""In elements. Small ones, which the allocator hands out again at once, and some that it gets from the system."""


def leave_secrets(count: int) -> None:
    """Writes secrets into several pieces of memory of this size, and gives them back."""
    held = [torch.full((count,), SECRET) for _ in range(8)]
    del held


def saw_secrets(look: Callable[[int], torch.Tensor]) -> bool:
    """Whether one of many looks shows a secret."""
    for count in SIZES:
        for _ in range(8):
            leave_secrets(count)
            if bool((look(count) == SECRET).any()):
                return True
    return False


PLAIN: dict[str, Callable[[int], torch.Tensor]] = {
    "empty": lambda count: torch.empty(count),
    "empty_like": lambda count: torch.empty_like(torch.zeros(1).expand(count)),
    "new_empty": lambda count: torch.zeros(1).new_empty(count),
    "empty_strided": lambda count: torch.empty_strided((count,), (1,)),
    "resize_": lambda count: torch.zeros(0).resize_(count),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_pytorch_shows_what_was_there(name: str) -> None:
    """Or else the tests below would show nothing."""
    assert saw_secrets(PLAIN[name])


WORKER: dict[str, Callable[[Session, int], int]] = {
    "empty": lambda session, count: session.call("aten::empty.memory_format", [count]),
    "empty_like": lambda session, count: session.call("aten::empty_like", expanded(session, count)),
    "new_empty": lambda session, count: session.call("aten::new_empty", expanded(session, count), [count]),
    "empty_strided": lambda session, count: session.call("aten::empty_strided", [count], [1]),
}


def expanded(session: Session, count: int) -> int:
    one: int = session.call("aten::expand", session.put(torch.zeros(1)), [count])
    return one


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKER)
def test_a_worker_shows_zeros_of_every_size(name: str) -> None:
    session = Session()

    def look(count: int) -> torch.Tensor:
        made = WORKER[name](session, count)
        shown = session.fetch(made)
        session.free(made)
        assert not shown.any()
        return shown

    assert not saw_secrets(look)


@pytest.mark.parametrize("size", [16, 257, 4096, 65_536])
def test_the_gaps_between_elements_are_zeros_too(size: int) -> None:
    session = Session()
    for op, first in (("aten::empty_strided", []), ("aten::new_empty_strided", [session.put(torch.zeros(1))])):
        for _ in range(10):
            leave_secrets(size)
            made = session.call(op, *first, [2, size // 8], [size // 2, 2])
            extent = size // 2 + 2 * (size // 8 - 1) + 1
            whole = session.call("aten::as_strided", made, [extent], [1], 0)
            assert not session.fetch(whole).any()
            session.free(made, whole)


def test_tensors_without_elements() -> None:
    session = Session()
    assert session.fetch(session.call("aten::empty.memory_format", [0, 3])).shape == (0, 3)
    assert session.fetch(session.call("aten::empty_strided", [0], [1])).shape == (0,)


def test_what_ctc_leaves_unwritten_of_its_alignments() -> None:
    """For the shorter of two sequences PyTorch writes only part of the output."""
    steps, classes, lengths = 40, 3, [30, 2]
    states = 2 * max(lengths) + 1
    given = torch.randn(steps, 2, classes).log_softmax(2), torch.randint(1, classes, (2, max(lengths)))

    def leaks(look: Callable[[], torch.Tensor]) -> bool:
        for _ in range(50):
            leave_secrets(2 * steps * states)
            if bool((look() == SECRET).any()):
                return True
        return False

    assert leaks(lambda: torch._ctc_loss(*given, [steps, 3], lengths)[1])
    session = Session()
    probabilities, targets = map(session.put, given)
    seen: list[torch.Tensor] = []

    def look() -> torch.Tensor:
        loss, alpha = session.call("aten::_ctc_loss", probabilities, targets, [steps, 3], lengths, outs=2)
        seen[:] = [session.fetch(loss), session.fetch(alpha)]
        session.free(loss, alpha)
        return seen[1]

    assert not leaks(look)
    assert seen[1][1, 3:].eq(-torch.inf).all()
    assert torch.equal(seen[0], torch._ctc_loss(*given, [steps, 3], lengths)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", POLYNOMIALS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_polynomial_of_nan_is_nan(name: str, dtype: torch.dtype) -> None:
    """PyTorch returns a variable of its kernel that nobody wrote, and so addresses of the process."""
    session = Session()
    nans = session.put(torch.tensor([torch.nan, 0.5, torch.nan], dtype=dtype))
    _, _, overload = name.partition(".")
    for degree in range(2, 9):
        n = degree if overload == "n_scalar" else session.put(torch.full((3,), degree, dtype=dtype))
        shown = session.fetch(session.call(f"aten::{name}", torch.nan if overload == "x_scalar" else nans, n))
        assert shown.isnan().tolist() == ([True] * 3 if overload == "x_scalar" else [True, False, True])
    n = 0 if overload == "n_scalar" else session.put(torch.zeros(3, dtype=dtype))
    constant = session.fetch(session.call(f"aten::{name}", torch.nan if overload == "x_scalar" else nans, n))
    assert torch.equal(constant, torch.ones(3, dtype=dtype))
