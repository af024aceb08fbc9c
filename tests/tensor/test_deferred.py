"""What PyTorch makes on its way through an operation goes to the worker of the pointer that it meets."""

from __future__ import annotations

import pytest
import torch

from cloister import PointerTensor, VirtualWorker
from cloister.errors import NotColocatedError
from cloister.tensor.deferred import Draft


@pytest.fixture
def bob() -> VirtualWorker:
    return VirtualWorker(id="bob")


@pytest.fixture
def alice() -> VirtualWorker:
    return VirtualWorker(id="alice")


def test_a_tensor_made_on_a_pointers_device_is_at_no_worker_yet(bob: VirtualWorker) -> None:
    draft = torch.zeros(3, device=bob.ones(1).device)
    assert type(draft) is Draft
    assert isinstance(draft, PointerTensor)
    assert "no worker" in repr(draft)
    with pytest.raises(NotColocatedError, match="no worker"):
        _ = draft.location
    assert draft.get().tolist() == [0.0, 0.0, 0.0]


def test_the_first_pointer_it_meets_decides_where_it_goes(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p, q = bob.ones(3), alice.ones(3)
    here, there = torch.arange(3, device=p.device), torch.arange(3, device=p.device)
    assert (p + here).get().tolist() == [1.0, 2.0, 3.0]
    assert (q + there).get().tolist() == [1.0, 2.0, 3.0]
    assert type(here) is type(there) is PointerTensor
    assert (here.location, there.location) == (bob, alice)
    with pytest.raises(NotColocatedError):
        here + q


def test_drafts_work_among_themselves(bob: VirtualWorker) -> None:
    device = bob.ones(1).device
    draft = torch.arange(4, device=device).float().mul_(2) + torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
    assert type(draft) is Draft
    assert draft.get().tolist() == [1.0, 4.0, 7.0, 10.0]
    assert draft.sum().item() == 22.0
    assert bob.count().objects == 0


def test_views_go_on_sharing_memory_at_the_worker(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    whole = torch.zeros(2, 2, device=p.device)
    row = whole[1]
    row.add_(p)
    assert whole.get(keep=True).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    whole.add_(p)
    assert row.get().tolist() == [2.0, 2.0]


def test_reshaping_in_place_before_it_is_anywhere(bob: VirtualWorker) -> None:
    draft = torch.zeros(2, 3, device=bob.ones(1).device)
    assert draft.t_().shape == (3, 2)
    assert draft.unsqueeze_(0).shape == (1, 3, 2)
    assert (draft + bob.ones(2)).shape == (1, 3, 2)


def test_gradients_reach_it(bob: VirtualWorker) -> None:
    p = bob.full((2,), 3.0)
    weight = torch.ones(2, device=p.device, requires_grad=True)
    (weight * p).sum().backward()
    assert weight.grad.get().tolist() == [3.0, 3.0]


def test_a_draft_can_be_sent_and_moved(bob: VirtualWorker) -> None:
    device = bob.ones(1).device
    sent = torch.ones(2, device=device).send(bob)
    moved = torch.ones(2, device=device)
    assert moved.move(bob) is moved
    assert (sent + moved).get().tolist() == [2.0, 2.0]


def test_nothing_is_left_over(bob: VirtualWorker) -> None:
    p = bob.ones(3)
    p[0] = 9
    p[[1, 2]] = 4.0
    torch.where(p > 4, p, 0.0)
    assert p.clamp(0, 5).get().tolist() == [5.0, 4.0, 4.0]
    assert bob.count().objects == 1


def test_local_tensors_know_nothing_of_it() -> None:
    assert type(torch.zeros(2)) is torch.Tensor
    assert torch.zeros(2, device="meta").is_meta
