"""Values that go from worker to worker."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cloister
from cloister import VirtualWorker
from cloister.errors import MoveError, NetworkError, UnreachableError
from cloister.tensor.moving import move
from cloister.wire import sessions as m


@pytest.fixture
def bob() -> VirtualWorker:
    return VirtualWorker(id="bob")


@pytest.fixture
def alice() -> VirtualWorker:
    return VirtualWorker(id="alice")


def test_many_tensors_move_at_once(bob: VirtualWorker, alice: VirtualWorker) -> None:
    tensors = [torch.full((size,), float(size)) for size in range(5)]
    pointers = [tensor.send(bob) for tensor in tensors]
    said: list[str] = []
    post = bob._channel.post
    bob._channel.post = lambda commands, puts: (
        said.extend(type(command).__name__ for command in commands) or post(commands, puts)
    )
    move(pointers, alice)
    assert said.count("Push") == 1
    assert all(torch.equal(p.get(), x) for p, x in zip(pointers, tensors, strict=True))


def test_from_several_workers_to_one(bob: VirtualWorker, alice: VirtualWorker) -> None:
    target = VirtualWorker(id="carol")
    p, q, r = bob.ones(1), alice.zeros(1), target.full((1,), 2.0)
    move([p, q, r], target)
    assert torch.cat([p, q, r]).get().tolist() == [1.0, 0.0, 2.0]


def test_a_move_that_fails_changes_nothing(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p = bob.ones(2)
    bob._channel.executor._exchange.push = _no_way
    with pytest.raises(MoveError):
        p.move(alice)
    assert p.location is bob
    assert p.get().tolist() == [1.0, 1.0]


def _no_way(*_: object) -> None:
    raise MoveError("the line is down")


def test_between_networks_the_caller_carries(
    bob: VirtualWorker, alice: VirtualWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alice._channel, "network", "another")
    p = torch.arange(6.0).reshape(2, 3).send(bob)
    view = p.t()
    view.move(alice)
    assert torch.equal(view.get(), torch.arange(6.0).reshape(2, 3).t())


def test_a_worker_that_is_gone_changes_nothing_either(
    bob: VirtualWorker, alice: VirtualWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UnreachableError("it is gone")

    p = bob.ones(2)
    monkeypatch.setattr(alice._channel, "post", gone)
    with pytest.raises(NetworkError):
        p.move(alice)
    assert p.location is bob
    assert p.get().tolist() == [1.0, 1.0]


def test_a_ticket_is_good_once_and_for_one(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p, ticket = bob.ones(2), b"t" * 32
    spec = (m.TensorSpec("float32", (2,)),)
    bob.post(m.Push((p.remote.id,), alice.fingerprint, ticket, 0))
    carol = VirtualWorker(id="carol")
    with pytest.raises(MoveError):
        carol.post(m.Take((50,), spec, bob.fingerprint, ticket, 0))
    alice.post(m.Take((50,), spec, bob.fingerprint, ticket, 0))
    with pytest.raises(MoveError):
        alice.post(m.Take((51,), spec, bob.fingerprint, ticket, 0))


def test_a_move_to_the_local_side_is_get(bob: VirtualWorker) -> None:
    here = cloister.TorchHook(torch).local_worker
    assert torch.equal(torch.ones(3).send(bob).move(here), torch.ones(3))
    model = nn.Linear(2, 1).send(bob).move(here)
    assert type(model.weight) is nn.Parameter
    del model
    assert bob.count().objects == 0
