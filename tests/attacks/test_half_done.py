"""Attack: an operation that fails in the middle of writing, and leaves an object half changed though it was refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cloister.tensor import fakes, ops
from tests.worker.sessions import Session

ONES = torch.ones(4)
WHOLE = torch.tensor([8, 8, 8, 8])
LATE = torch.tensor([0, 1, 2, 2**40])  # the last is no index
DIVISORS = torch.tensor([3, 3, 3, 0])

CASES: dict[str, tuple[torch.Tensor, list[Any]]] = {
    "index_fill_.int_Scalar": (ONES, [0, LATE, 7.0]),
    "index_copy_": (ONES, [0, LATE, torch.zeros(4)]),
    "scatter_.src": (ONES, [0, LATE, torch.zeros(4)]),
    "scatter_add_": (ONES, [0, LATE, ONES]),
    "index_put_": (ONES, [[LATE], torch.zeros(4)]),
    "fmod_.Tensor": (WHOLE, [DIVISORS]),
    "remainder_.Tensor": (WHOLE, [DIVISORS]),
    "floor_divide_.Tensor": (WHOLE, [DIVISORS]),
    "bernoulli_.Tensor": (torch.full((4,), 7.0), [torch.tensor([0.5, 0.5, 0.5, 2.0])]),
}


def plain(name: str, tensor: torch.Tensor, arguments: list[Any]) -> torch.Tensor:
    """What PyTorch leaves of it."""
    base, _, overload = name.partition(".")
    written = tensor.clone()
    with pytest.raises((RuntimeError, IndexError)):
        getattr(getattr(torch.ops.aten, base), overload or "default")(written, *arguments)
    return written


def sent(session: Session, value: Any) -> Any:
    if isinstance(value, list):
        return [sent(session, item) for item in value]
    return session.put(value) if isinstance(value, torch.Tensor) else value


def alone(session: Session, tensor: torch.Tensor) -> tuple[int, int]:
    whole = session.put(tensor)
    return whole, whole


def with_gaps(session: Session, tensor: torch.Tensor) -> tuple[int, int]:
    whole = session.put(torch.stack([tensor, tensor], -1))
    return whole, session.call("aten::select.int", whole, -1, 0)


@pytest.mark.parametrize("name", CASES)
def test_plain_pytorch_leaves_the_half(name: str) -> None:
    """Or else the test below would show nothing."""
    assert not torch.equal(plain(name, *CASES[name]), CASES[name][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("placed", [alone, with_gaps])
def test_what_is_refused_has_changed_nothing(
    name: str, placed: Callable[[Session, torch.Tensor], tuple[int, int]]
) -> None:
    session = Session()
    tensor, arguments = CASES[name]
    whole, id = placed(session, tensor)
    before, named = session.fetch(whole), sent(session, arguments)
    held = session.count()
    session.fault(f"aten::{name}", id, *named, outs=0, seed=1 if "bernoulli" in name else None)
    assert torch.equal(session.fetch(whole), before)
    assert session.count() == held


def test_running_statistics_of_a_batch_that_is_refused() -> None:
    """They are written before the kernel sees that weight and bias are of two element types."""
    session = Session()
    image, weight, bias, var = torch.rand(4, 2, 3), torch.ones(2), torch.ones(2, dtype=torch.int16), torch.ones(2)
    ids = [*map(session.put, (image, weight, bias, torch.ones(2), var))]
    session.fault("aten::native_batch_norm", *ids, True, 0.5, 1e-5, outs=3)
    assert torch.equal(session.fetch(ids[4]), torch.ones(2))
    with pytest.raises(RuntimeError):
        torch.native_batch_norm(image, weight, bias, torch.ones(2), var, True, 0.5, 1e-5)
    assert not torch.equal(var, torch.ones(2))  # as PyTorch leaves it


def test_the_noise_of_bounds_that_are_none() -> None:
    session, noise = Session(), torch.zeros(4)
    x, written = session.put(torch.tensor([1.0, 2.0, -3.0, 4.0])), session.put(noise)
    for lower, upper in ((0.9, 0.1), (float("nan"), 0.5), (0.1, float("inf"))):
        session.fault("aten::rrelu_with_noise", x, written, lower, upper, True, seed=1)
        session.fault("aten::rrelu_with_noise_", x, written, lower, upper, True, outs=0, seed=1)
    assert torch.equal(session.fetch(written), noise)
    with pytest.raises(RuntimeError):
        torch.ops.aten.rrelu_with_noise(torch.tensor([1.0, 2.0, -3.0, 4.0]), noise, 0.9, 0.1, True)
    assert noise.any()  # as PyTorch leaves it


def test_an_identity_that_its_type_cannot_hold() -> None:
    session, out = Session(), torch.full((3, 3), 7, dtype=torch.uint16)
    written = session.put(out)
    session.fault("aten::eye.m_out", 3, 3, out=written, outs=0)
    assert torch.equal(session.fetch(written), out)
    with pytest.raises(RuntimeError):
        torch.ops.aten.eye.m_out(3, 3, out=out)
    assert not out.any()  # as PyTorch leaves it


def test_what_was_written_when_the_result_is_not_as_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes once the kernel is through; a prediction that is wrong stands for all that may be."""
    monkeypatch.setattr(fakes, "NORMS", frozenset())
    ops.by_name("aten::native_batch_norm").outlines.clear()
    session = Session()
    image = torch.rand(4, 2, 3).bfloat16()
    ids = [*map(session.put, (image, torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(2)))]
    failure = session.fault("aten::native_batch_norm", *ids, True, 0.5, 1e-5, outs=3)
    ops.by_name("aten::native_batch_norm").outlines.clear()
    assert "predicted" in failure.text
    assert torch.equal(session.fetch(ids[3]), torch.ones(2))
    assert torch.equal(session.fetch(ids[4]), torch.ones(2))
