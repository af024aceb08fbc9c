"""What becomes of one operation."""

from __future__ import annotations

import pytest
import torch

from cloister import PointerTensor, VirtualWorker
from cloister.errors import NotColocatedError, OpRefusedError
from cloister.wire import sessions as m


@pytest.fixture
def bob() -> VirtualWorker:
    return VirtualWorker(id="bob", encode=True)


def calls(worker: VirtualWorker) -> list[m.Call]:
    """The operations that go to ``worker`` from now on."""
    seen: list[m.Call] = []
    post = worker._channel.post

    def noted(commands: list[m.Command], puts: list[torch.Tensor]) -> object:
        seen.extend(command for command in commands if type(command) is m.Call)
        return post(commands, puts)

    worker._channel.post = noted
    return seen


def test_one_operation_is_one_command(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    seen = calls(bob)
    q = p + 1
    assert [(call.op, list(call.args), tuple(call.outs)) for call in seen] == [
        ("aten::add.Tensor", [p.remote.id, [1]], (q.remote.id,))
    ]


def test_composites_arrive_as_what_they_are_made_of(bob: VirtualWorker) -> None:
    p = bob.ones(2, 2)
    seen = calls(bob)
    torch.nn.functional.linear(p, p)
    assert all(call.op != "aten::linear" for call in seen)
    assert any(call.op == "aten::mm" for call in seen)


def test_aliases_cost_nothing(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    seen = calls(bob)
    assert p.detach().remote is p.remote
    assert p.data.remote is p.remote
    assert not seen


def test_in_place_operations_make_nothing(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    seen = calls(bob)
    p.add_(1).mul_(2)
    assert [tuple(call.outs) for call in seen] == [(), ()]


def test_random_operations_carry_a_seed_and_others_none(bob: VirtualWorker) -> None:
    p = bob.ones(2)
    seen = calls(bob)
    torch.nn.functional.dropout(p)
    assert any(call.seed is not None for call in seen)
    assert all(call.seed is None for call in seen if call.op.startswith(("aten::mul", "aten::div")))


def test_seeds_come_from_the_callers_generator(bob: VirtualWorker) -> None:
    def draw(generator: torch.Generator | None = None) -> torch.Tensor:
        return bob.ones(100).bernoulli(0.5, generator=generator).get()

    torch.manual_seed(1)
    one = draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), one)
    state = torch.get_rng_state()
    assert torch.equal(draw(torch.Generator().manual_seed(5)), draw(torch.Generator().manual_seed(5)))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_device_never_travels(bob: VirtualWorker) -> None:
    seen = calls(bob)
    bob.zeros(2, device="cpu")
    p = bob.ones(2)
    p.to(torch.float64)
    assert all("device" not in call.kwargs for call in seen)
    with pytest.raises(OpRefusedError, match="owner"):
        p.to("meta")


def test_numbers_are_three_things(bob: VirtualWorker) -> None:
    p = bob.ones(2, dtype=torch.int64)
    dtypes = [(p + number).dtype for number in (1, 1.0, True, 1, 1.0)]
    assert dtypes == [torch.int64, torch.float32, torch.int64, torch.int64, torch.float32]


def test_tensors_of_different_places(bob: VirtualWorker) -> None:
    p, q = bob.ones(2), VirtualWorker(id="alice").ones(2)
    with pytest.raises(NotColocatedError, match=r"bob.*alice"):
        p + q
    with pytest.raises(NotColocatedError, match=r"local tensor float32\[2\]"):
        p + torch.ones(2)
    with pytest.raises(NotColocatedError, match="meta tensor"):
        p + torch.ones((), device="meta")
    with pytest.raises(NotColocatedError):
        torch.ones(2).mul_(bob.ones(()))


def test_index_tensors_and_zero_dimensional_ones_are_uploaded(bob: VirtualWorker) -> None:
    p = torch.arange(4.0).send(bob)
    assert p[torch.tensor([3, 0])].get().tolist() == [3.0, 0.0]
    p[torch.tensor([True, False, False, False])] = 5.0
    p.index_put_((torch.tensor([1]),), torch.tensor(7.0))
    assert (p * torch.tensor(2.0)).get().tolist() == [10.0, 14.0, 4.0, 6.0]
    assert bob.count().objects == 1


def test_lists_and_tuples_keep_their_form(bob: VirtualWorker) -> None:
    p = bob.ones(4, 2)
    assert type(p.split(2)) is tuple
    assert all(type(part) is PointerTensor for part in torch.unbind(p))
    values, indices = p.max(0)
    assert (values.dtype, indices.dtype) == (torch.float32, torch.int64)
    assert p.sort(0).indices.shape == (4, 2)


def test_outputs_that_are_absent(bob: VirtualWorker) -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    p = x.send(bob)
    for tensor in (x, p):
        torch.nn.functional.group_norm(tensor, 1).pow(2).sum().backward()
    torch.testing.assert_close(p.grad.get(), x.grad)


def test_out_arguments(bob: VirtualWorker) -> None:
    p, q = bob.ones(2), bob.zeros(2)
    assert torch.maximum(p, q, out=q) is q
    assert q.get().tolist() == [1.0, 1.0]


def test_shapes_that_depend_on_values_are_asked_for(bob: VirtualWorker) -> None:
    p = torch.tensor([0.0, 1.0, 2.0]).send(bob)
    assert p.nonzero().shape == (2, 1)
    assert p[p > 0].shape == (2,)
    assert torch.unique(p).shape == (3,)


def test_operations_that_no_worker_runs(bob: VirtualWorker) -> None:
    with pytest.raises(OpRefusedError, match="no worker runs"):
        bob.ones(2, 2).to_sparse()
