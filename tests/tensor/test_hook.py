"""The verbs that tensors and modules get."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from cloister import PointerTensor, TorchHook, VirtualWorker
from cloister.errors import ConfigurationError


def test_hooking_twice_is_hooking_once() -> None:
    TorchHook(torch)
    send = torch.Tensor.send
    TorchHook(torch)
    TorchHook()
    assert torch.Tensor.send is send


def test_only_the_torch_that_is_imported_can_be_hooked() -> None:
    with pytest.raises(ConfigurationError, match="TorchHook"):
        TorchHook(types.ModuleType("torch"))


def test_making_a_worker_hooks_too() -> None:
    worker = VirtualWorker(id="bob")
    assert isinstance(torch.ones(1).send(worker), PointerTensor)
    assert nn.Linear(1, 1).send(worker).weight.location is worker


def test_a_worker_takes_the_hook_as_the_scripts_of_old_pass_it() -> None:
    assert VirtualWorker(TorchHook(torch), id="bob").id == "bob"


@pytest.mark.parametrize("tags", ["#a", [""], ["x" * 200], ["#t"] * 20, [1]])
def test_tags_are_a_list_of_short_strings(tags: object) -> None:
    with pytest.raises(ConfigurationError, match="tags"):
        torch.ones(1).send(VirtualWorker(id="bob"), tags=tags)


def test_the_state_of_an_optimizer_follows_its_parameter() -> None:
    bob, alice = VirtualWorker(id="bob"), VirtualWorker(id="alice")
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    for worker in (None, bob, alice, None):
        if worker is None and isinstance(model.weight, PointerTensor):
            model.get()
        elif worker is not None:
            model.send(worker)
        optimizer.zero_grad()
        model(torch.ones(1, 2) if worker is None else worker.ones(1, 2)).sum().backward()
        optimizer.step()
        moments = optimizer.state[model.weight]["exp_avg"]
        assert (moments.location if isinstance(moments, PointerTensor) else None) is worker
        assert type(optimizer.state[model.weight]["step"]) is torch.Tensor
