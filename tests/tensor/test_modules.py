"""Modules at a worker."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from cloister import PointerTensor, VirtualWorker
from cloister.errors import PointerAssignmentError


@pytest.fixture
def bob() -> VirtualWorker:
    return VirtualWorker(id="bob")


@pytest.fixture
def alice() -> VirtualWorker:
    return VirtualWorker(id="alice")


def test_an_optimizer_made_before_keeps_hold_of_the_parameters(bob: VirtualWorker) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.send(bob)
    before = model.weight.detach().clone()
    model(bob.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight.get(keep=True), (before - 1).get())


def test_a_module_partly_here_and_partly_there_is_sent_whole(bob: VirtualWorker, alice: VirtualWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].send(alice)
    model[1].send(bob)
    model.send(bob)
    assert all(parameter.location is bob for parameter in model.parameters())
    assert alice.count().objects == 0


def test_a_module_at_two_workers_comes_home(bob: VirtualWorker, alice: VirtualWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    expected = [p.detach().clone() for p in model.parameters()]
    model[0].send(bob)
    model[1].send(alice)
    model.get()
    assert all(torch.equal(p, x) for p, x in zip(model.parameters(), expected, strict=True))


def test_only_trainable_parameters_stay_trainable(bob: VirtualWorker) -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    model.send(bob)
    assert [p.requires_grad for p in model.parameters()] == [True, False]
    model.get()
    assert [p.requires_grad for p in model.parameters()] == [True, False]


def test_buffers_that_are_not_saved_move_too(bob: VirtualWorker) -> None:
    model = nn.Module()
    model.register_buffer("mask", torch.ones(2), persistent=False)
    model.send(bob)
    assert isinstance(model.mask, PointerTensor)
    assert model.get().mask.tolist() == [1.0, 1.0]


def test_what_a_forward_makes_is_born_where_the_module_is(bob: VirtualWorker, alice: VirtualWorker) -> None:
    class Maker(nn.Module):
        def forward(self) -> torch.Tensor:
            return torch.ones(2) + torch.tensor([1.0, 2.0])

    maker = Maker()
    assert maker.send(bob)().location is bob
    assert maker.move(alice)().location is alice
    assert type(maker.get()()) is torch.Tensor


def test_modules_within_modules_may_be_elsewhere(bob: VirtualWorker, alice: VirtualWorker) -> None:
    class Inner(nn.Module):
        def forward(self) -> torch.Tensor:
            return torch.ones(1)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(1), self.inner()

    outer = Outer().send(bob)
    outer.inner.send(alice)
    own, inner = outer()
    assert (own.location, inner.location) == (bob, alice)


def test_a_forward_set_on_the_module_is_kept(bob: VirtualWorker) -> None:
    model = nn.Linear(2, 1)
    model.forward = lambda x: x * 2
    model.send(bob)
    assert model(bob.ones(1)).get().tolist() == [2.0]
    assert model.get()(torch.ones(1)).tolist() == [2.0]


def test_a_deepcopy_runs_by_itself(bob: VirtualWorker) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self) -> torch.Tensor:
            return self.weight * torch.ones(2)

    model = Scale().send(bob)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.weight.mul_(3)
    assert twin().get().tolist() == [3.0, 3.0]
    assert model().get().tolist() == [1.0, 1.0]


@pytest.mark.slow
def test_a_module_that_is_forgotten_leaves_nothing(bob: VirtualWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).send(bob)
    assert bob.count().objects == 7
    del model
    gc.collect()
    assert bob.count().objects == 0


def test_training_mode_and_hooks_are_untouched(bob: VirtualWorker) -> None:
    seen: list[str] = []
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    model[0].register_forward_hook(lambda *_: seen.append("forward"))
    model.send(bob)
    model(bob.ones(1, 2))
    assert seen == ["forward"]
    assert not model[1].training


def test_a_saved_parameter_is_named(bob: VirtualWorker) -> None:
    model = nn.Linear(2, 1)
    kept = (model.weight * model.weight).sum()
    with pytest.raises(PointerAssignmentError, match="graph"):
        model.send(bob)
    assert kept.requires_grad


def test_a_module_that_cannot_be_sent_whole_stays_here_whole(bob: VirtualWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = weakref.ref(model[1].weight)
    with pytest.raises(PointerAssignmentError, match="held by"):
        model.send(bob)
    assert held() is model[1].weight
    assert not any(isinstance(parameter, PointerTensor) for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert bob.count().objects == 0
