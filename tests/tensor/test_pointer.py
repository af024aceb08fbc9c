"""A pointer is a tensor in all but its values."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from cloister import PointerTensor, VirtualWorker
from cloister.errors import PointerAssignmentError, PointerNotPortableError, PointerSpentError


@pytest.fixture
def bob() -> VirtualWorker:
    return VirtualWorker(id="bob")


@pytest.fixture
def alice() -> VirtualWorker:
    return VirtualWorker(id="alice")


def test_get_brings_a_leaf_as_a_leaf(bob: VirtualWorker) -> None:
    got = torch.ones(2, requires_grad=True).send(bob).get()
    assert type(got) is torch.Tensor
    assert got.is_leaf
    assert got.requires_grad


def test_get_brings_a_result_without_its_history(bob: VirtualWorker) -> None:
    p = torch.ones(2, requires_grad=True).send(bob)
    got = (p * 2).get()
    assert not got.requires_grad


def test_get_brings_a_parameter_as_one(bob: VirtualWorker) -> None:
    weight = nn.Linear(2, 1).send(bob).weight
    assert isinstance(weight.get(keep=True), nn.Parameter)


def test_a_spent_pointer_says_so_everywhere(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    p.get()
    for act in (lambda: p.get(), lambda: p.location, lambda: p + 1, lambda: p.move(bob), lambda: torch.cat([p, p])):
        with pytest.raises(PointerSpentError):
            act()


def test_an_alias_of_a_spent_pointer_is_not_spent(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    alias = p.detach()
    p.get()
    assert alias.get().tolist() == [1.0, 1.0]
    del alias
    assert bob.count().objects == 0


def test_data_is_an_alias_outside_autograd(bob: VirtualWorker) -> None:
    p = torch.ones(2, requires_grad=True).send(bob)
    assert not p.data.requires_grad
    assert p.data.remote is p.remote
    p.data.add_(1)
    assert p.get().tolist() == [2.0, 2.0]


def test_rebinding_takes_shape_type_and_place(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p, q = bob.zeros(2), alice.ones(3, 1, dtype=torch.float64)
    p.data = q
    assert (p.shape, p.dtype, p.location) == ((3, 1), torch.float64, alice)
    assert bob.count().objects == 0


def test_an_assignment_that_is_refused_changes_nothing(bob: VirtualWorker) -> None:
    p = bob.zeros(2)
    remote = p.remote
    with pytest.raises(PointerAssignmentError):
        p.data = torch.ones(2)
    assert p.remote is remote
    assert p.get().tolist() == [0.0, 0.0]


def test_deepcopy_keeps_what_belongs_together(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    pair = copy.deepcopy({"one": p, "two": p})
    assert pair["one"] is pair["two"]
    assert pair["one"] is not p


def test_deepcopy_of_a_result_is_refused_as_locally(bob: VirtualWorker) -> None:
    x = torch.ones(2, requires_grad=True)
    for tensor in (x * 2, x.send(bob) * 2):
        with pytest.raises(RuntimeError, match="deep"):
            copy.deepcopy(tensor)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_protocol_pickles_it(bob: VirtualWorker, protocol: int) -> None:
    with pytest.raises(PointerNotPortableError):
        pickle.dumps(bob.ones(1), protocol)


def test_format(bob: VirtualWorker) -> None:
    assert f"{bob.full((), 1.5):.2f}" == "1.50"
    assert f"{bob.full((), 1.5)}" == "PointerTensor(float32[] at bob)"
    assert "requires_grad=True" in repr(bob.ones(2).requires_grad_())


def test_it_is_hashable_and_compares_by_element(bob: VirtualWorker) -> None:
    p, q = bob.ones(2), bob.ones(2)
    assert len({p, q}) == 2
    assert (p == q).get().all()
    assert p in [p]


def test_torch_equal_and_allclose(bob: VirtualWorker) -> None:
    p, q = bob.ones(2), bob.ones(2)
    assert torch.equal(p, q)
    assert torch.allclose(p, q + 1e-7)
    assert not torch.equal(p, q + 1)
    assert not torch.allclose(p, q + 1)
    assert not torch.equal(p, bob.ones(3))


def test_to_changes_the_type_and_never_the_machine(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    assert p.double().dtype is torch.float64
    assert p.to(torch.int32).location is bob
    assert p.to(p.device) is p
    local = p.cpu()
    assert type(local) is torch.Tensor
    assert local.tolist() == [1.0, 1.0]


def test_iteration_gives_pointers(bob: VirtualWorker) -> None:
    rows = list(bob.eye(2))
    assert all(isinstance(row, PointerTensor) for row in rows)
    with pytest.raises(TypeError, match="0-d"):
        iter(bob.ones(()))
