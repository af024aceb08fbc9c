"""Tensors born at a worker."""

from __future__ import annotations

import pytest
import torch

from cloister import PointerTensor, VirtualWorker
from cloister.tensor.factories import BornAt, upload


@pytest.fixture
def bob() -> VirtualWorker:
    return VirtualWorker(id="bob")


FACTORIES = {
    "zeros": lambda: torch.zeros(2, 3),
    "ones": lambda: torch.ones((2,), dtype=torch.int32),
    "full": lambda: torch.full((2,), 3.5),
    "empty": lambda: torch.empty(2).zero_(),
    "arange": lambda: torch.arange(1, 9, 2),
    "linspace": lambda: torch.linspace(0, 1, 3),
    "eye": lambda: torch.eye(2, 3),
    "tensor": lambda: torch.tensor([[1.0, 2.0]]),
    "tensor of a number": lambda: torch.tensor(4),
    "zeros_like": lambda: torch.zeros_like(torch.ones(2)),
    "tril_indices": lambda: torch.tril_indices(3, 3),
    "hann_window": lambda: torch.hann_window(4),
    "logspace": lambda: torch.logspace(0, 1, 3),
    "scalar_tensor": lambda: torch.scalar_tensor(2.0),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)).detach(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORIES)
def test_what_is_made_meanwhile_is_made_there(bob: VirtualWorker, name: str) -> None:
    expected = FACTORIES[name]()
    with BornAt(bob):
        made = FACTORIES[name]()
    assert isinstance(made, PointerTensor)
    assert made.location is bob
    assert made.dtype is expected.dtype
    assert torch.equal(made.get(), expected)


@pytest.mark.parametrize("factory", [torch.rand, torch.randn, lambda n: torch.randint(0, 9, (n,)), torch.randperm])
def test_random_ones_follow_the_callers_seed(bob: VirtualWorker, factory: object) -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        with BornAt(bob):
            draws.append(factory(20).get())
    assert torch.equal(*draws)


def test_gradients_can_be_wished_for_at_birth(bob: VirtualWorker) -> None:
    p = bob.ones(2, requires_grad=True)
    (p * 3).sum().backward()
    assert p.grad.get().tolist() == [3.0, 3.0]


def test_afterwards_tensors_are_local_again(bob: VirtualWorker) -> None:
    with BornAt(bob):
        pass
    assert type(torch.zeros(1)) is torch.Tensor


def test_local_tensors_stay_local_meanwhile(bob: VirtualWorker) -> None:
    x = torch.ones(2)
    with BornAt(bob):
        y = x * 2
    assert type(y) is torch.Tensor


def test_upload_is_a_leaf_with_the_same_wish(bob: VirtualWorker) -> None:
    p = upload(torch.ones(3, requires_grad=True)[1:], bob)
    assert p.is_leaf
    assert p.requires_grad
    assert bob.count().nbytes == 8


def test_the_callers_default_dtype_holds() -> None:
    bob = VirtualWorker(id="bob")
    torch.set_default_dtype(torch.float64)
    try:
        assert bob.zeros(2).get().dtype is torch.float64
        assert bob.rand(2).get().dtype is torch.float64
        assert bob.arange(3).get().dtype is torch.int64
        assert bob.ones(2, dtype=torch.float16).get().dtype is torch.float16
    finally:
        torch.set_default_dtype(torch.float32)
    assert bob.zeros(2).get().dtype is torch.float32
