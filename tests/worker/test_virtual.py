"""``VirtualWorker``: a worker in this process, of which a script cannot tell that it is."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch

import cloister
from cloister import VirtualWorker
from cloister.errors import MemoryLimitError, MoveError, ObjectLimitError, RemoteOpError
from cloister.wire import sessions as m

X: Any = torch.arange(6.0).reshape(2, 3)
ENCODE = pytest.mark.parametrize("encode", [False, True], ids=["direct", "encoded"])


def test_it_is_made_as_in_the_scripts_of_old() -> None:
    bob = VirtualWorker(cloister.TorchHook(torch), id="bob")
    assert bob.id == "bob"
    assert "bob" in repr(bob)


@ENCODE
def test_it_computes(encode: bool) -> None:
    bob = VirtualWorker(id="bob", encode=encode)
    p = X.send(bob)
    assert torch.equal((p @ p.T + 1).get(), X @ X.T + 1)


@ENCODE
def test_worker_and_caller_share_no_tensor(encode: bool) -> None:
    bob = VirtualWorker(id="bob", encode=encode)
    x = X.clone()
    p = x.send(bob)
    x.zero_()
    assert torch.equal(p.get(keep=True), X)
    p.get(keep=True).zero_()
    assert torch.equal(p.get(), X)


@pytest.mark.slow
@ENCODE
def test_objects_are_freed_with_their_pointers(encode: bool) -> None:
    bob = VirtualWorker(id="bob", encode=encode)
    p = X.send(bob)
    for _ in range(300):
        p = p + 1
    assert bob.count().objects == 1
    del p
    gc.collect()
    assert bob.count() == m.Counted(0, 0)


def test_a_fault_tells_the_types_that_did_not_fit_and_no_values() -> None:
    bob = VirtualWorker(id="bob")
    with pytest.raises(
        RemoteOpError, match=r"given float32\[2, 3\], float64\[3, 2\]; .* x.to\(torch.float32\)"
    ) as found:
        _ = X.send(bob) @ X.double().T.send(bob)
    assert "but got" not in str(found.value)


@ENCODE
def test_a_fault_is_raised_by_the_line_that_caused_it(encode: bool) -> None:
    bob = VirtualWorker(id="bob", encode=encode)
    p = X.send(bob)
    singular = torch.zeros(2, 2).send(bob)  # type: ignore[attr-defined]
    with pytest.raises(RemoteOpError, match=r"test_virtual\.py, line \d+"):
        torch.linalg.cholesky(singular)
    assert torch.equal(p.get(), X)


@pytest.mark.slow
@ENCODE
def test_its_limits_are_a_workers(encode: bool) -> None:
    bob = VirtualWorker(id="bob", encode=encode, memory_bytes=100, objects=3)
    p = X.send(bob)
    with pytest.raises(MemoryLimitError):
        bob.zeros(100)
    gc.collect()
    assert bob.count() == m.Counted(1, 24)
    kept = [p + 1, p + 2]
    with pytest.raises(ObjectLimitError):
        p + 3
    assert len(kept) == 2


def test_large_objects_are_not_kept_waiting_to_be_freed() -> None:
    bob = VirtualWorker(id="bob", memory_bytes=16 << 20)
    p: Any = bob.zeros(1 << 20)
    for _ in range(20):
        p = p + 1
    assert p.max().get() == 20


@pytest.mark.slow
@ENCODE
def test_values_move_between_virtual_workers(encode: bool) -> None:
    bob, alice = VirtualWorker(id="bob", encode=encode), VirtualWorker(id="alice", encode=encode)
    p = X.send(bob)
    p.move(alice)
    assert p.location is alice
    gc.collect()
    assert (bob.count().objects, alice.count().objects) == (0, 1)
    assert torch.equal((p.t() + 1).get(), X.T + 1)


@ENCODE
def test_a_view_moves_with_its_own_values(encode: bool) -> None:
    bob, alice = VirtualWorker(id="bob", encode=encode), VirtualWorker(id="alice", encode=encode)
    p = X.send(bob)[:, 1]
    p.move(alice)
    assert alice.count() == m.Counted(1, 8)
    assert torch.equal(p.get(), X[:, 1])


def test_a_ticket_is_good_once_and_for_the_one_it_names() -> None:
    bob, alice, mallory = (VirtualWorker(id=name) for name in ("bob", "alice", "mallory"))
    p = X.send(bob)
    ticket, spec = b"t" * 32, m.TensorSpec("float32", (2, 3))
    bob.post(m.Push((p.remote.id,), alice.fingerprint, ticket, 0))
    take = m.Take((1 << 40,), (spec,), bob.fingerprint, ticket, 0)
    with pytest.raises(MoveError):
        mallory.post(take)
    alice.post(take)
    with pytest.raises(MoveError):
        alice.post(m.Take((1 << 41,), (spec,), bob.fingerprint, ticket, 0))


def test_two_workers_of_one_name_are_two_workers() -> None:
    one, two = VirtualWorker(id="bob"), VirtualWorker(id="bob")
    assert one.fingerprint != two.fingerprint
    p = X.send(one)
    assert two.count().objects == 0
    p.move(two)
    assert two.count().objects == 1


def test_closing_frees_everything() -> None:
    bob = VirtualWorker(id="bob")
    p = X.send(bob)
    with bob:
        assert bob.count().objects == 1
    assert bob.count().objects == 0
    del p


@pytest.mark.slow
def test_it_may_be_used_from_several_threads() -> None:
    bob = VirtualWorker(id="bob")
    wrong: list[int] = []

    def use(number: int) -> None:
        p = (X + number).send(bob)
        for _ in range(50):
            p = p + 1
        if not torch.equal(p.get(), X + number + 50):
            wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    gc.collect()
    assert bob.count().objects == 0


@pytest.mark.slow
def test_both_ways_of_passing_commands_give_the_same() -> None:
    def run(encode: bool) -> torch.Tensor:
        torch.manual_seed(3)
        bob = VirtualWorker(id="bob", encode=encode)
        model: Any = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)
        )
        model.send(bob)
        p = X.send(bob)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (model(p) ** 2).sum().backward()
            optimizer.step()
        return torch.cat([parameter.flatten() for parameter in model.get().parameters()]).detach()

    assert torch.equal(run(False), run(True))
