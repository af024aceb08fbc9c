"""Behaviours 1 to 4, 9, 18 and 25: values go to a worker, stay what they are, and come back."""

from __future__ import annotations

import pytest
import torch

from cloister import PointerTensor
from cloister.errors import PointerSpentError
from cloister.tensor.worker import Worker
from cloister.wire import sessions as m
from tests.behaviours.conftest import objs

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
]


def test_01_send_and_get(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b)
    assert objs(b) == 1
    assert torch.equal(p.get(), torch.tensor([1.0, 2.0]))
    assert objs(b) == 0


def test_01_get_can_leave_the_object(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b)
    assert torch.equal(p.get(keep=True), torch.tensor([1.0, 2.0]))
    assert objs(b) == 1
    assert torch.equal((p + 1).get(), torch.tensor([2.0, 3.0]))


def test_01_a_pointer_is_spent_once(b: Worker) -> None:
    p = torch.tensor([1.0]).send(b)
    p.get()
    with pytest.raises(PointerSpentError, match="keep=True"):
        p.get()
    with pytest.raises(PointerSpentError):
        p + 1
    assert repr(p) == "PointerTensor(spent)"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3), (2, 1, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_02_dtype_and_shape_survive(b: Worker, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randint(0, 2, shape).to(dtype)
    got = x.send(b).get()
    assert got.dtype is dtype
    assert got.shape == shape
    assert torch.equal(got, x)


def test_02_special_floats_survive(b: Worker) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    assert torch.equal(x.send(b).get().view(torch.int32), x.view(torch.int32))


def test_03_a_pointer_looks_like_its_tensor(b: Worker) -> None:
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    p = x.send(b)
    assert isinstance(p, torch.Tensor)
    assert isinstance(p, PointerTensor)
    assert p.location is b
    assert p.shape == p.size() == (2, 3)
    assert (p.dtype, p.dim(), p.ndim, len(p), p.numel(), p.size(1)) == (torch.float64, 2, 2, 2, 6, 3)
    assert p.requires_grad
    assert p.is_leaf


def test_03_repr_names_worker_and_shape_and_no_values(b: Worker) -> None:
    p = torch.full((2, 3), 7.25).send(b)
    for text in (repr(p), str(p), f"{p}"):
        assert b.id in text
        assert "float32[2, 3]" in text
        assert "7.25" not in text


def test_04_the_local_tensor_is_unchanged(b: Worker) -> None:
    x = torch.tensor([1.0, 2.0])
    p = x.send(b)
    p.add_(1)
    assert torch.equal(p.get(), torch.tensor([2.0, 3.0]))
    assert type(x) is torch.Tensor
    assert torch.equal(x, torch.tensor([1.0, 2.0]))


def test_04_what_is_sent_is_what_the_tensor_held_then(b: Worker) -> None:
    small, large = torch.zeros(4), torch.zeros(300, 300)
    p, q = small.send(b), large.send(b)
    small.add_(1)
    large.add_(1)
    assert torch.equal(p.get(), torch.zeros(4))
    assert torch.equal(q.get(), torch.zeros(300, 300))


def test_04_what_came_back_is_the_callers_own(b: Worker) -> None:
    p = torch.zeros(3).send(b)
    p.get(keep=True).add_(1)
    assert torch.equal(p.get(), torch.zeros(3))


def test_09_comparisons_are_bool_tensors(b: Worker) -> None:
    p = torch.tensor([0.0, 1.0, 2.0]).send(b)
    got = (p > 1).get()
    assert got.dtype is torch.bool
    assert got.tolist() == [False, False, True]
    assert (p == p).get().all()
    assert (~(p > 1)).get().tolist() == [True, True, False]


def test_18_tensors_are_born_at_the_worker(b: Worker) -> None:
    born = {
        "zeros": (b.zeros(2, 3), torch.zeros(2, 3)),
        "ones": (b.ones((2, 3), dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)),
        "full": (b.full((2,), 1.5), torch.full((2,), 1.5)),
        "arange": (b.arange(5), torch.arange(5)),
        "arange with bounds": (b.arange(1, 2, 0.25), torch.arange(1, 2, 0.25)),
        "linspace": (b.linspace(0, 1, 5), torch.linspace(0, 1, 5)),
        "eye": (b.eye(3), torch.eye(3)),
    }
    for name, (pointer, expected) in born.items():
        assert pointer.location is b, name
        assert pointer.dtype is expected.dtype, name
        assert torch.equal(pointer.get(), expected), name


def test_18_random_tensors_are_reproducible(b: Worker) -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(7)
        pointers = (b.randn(4, 4), b.rand(4), b.randint(0, 1000, (4,)), b.randperm(20), b.randn(4, 4))
        return [pointer.get() for pointer in pointers]

    first, second = draw(), draw()
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], first[4])
    assert sorted(first[3].tolist()) == list(range(20))


def test_18_nothing_is_sent_for_them(b: Worker) -> None:
    carried = carried_bytes(b)
    p = b.zeros(1000, 1000)
    assert float(p.sum()) == 0.0
    assert not carried


def test_25_a_slice_carries_only_its_own_values(b: Worker) -> None:
    carried = carried_bytes(b)
    whole = torch.arange(1000.0)
    p = whole[10:12].send(b)
    b.flush()
    assert sum(carried) == 8
    assert b.count().nbytes == 8
    assert p.as_strided((2,), (1,)).get(keep=True).tolist() == [10.0, 11.0]
    with pytest.raises(RuntimeError):
        p.as_strided((3,), (1,)).get()


def test_25_so_does_a_slice_that_comes_back(b: Worker) -> None:
    row = torch.zeros(100, 100).send(b)[3].get()
    assert row.untyped_storage().nbytes() == 400


def carried_bytes(worker: Worker) -> list[int]:
    """The sizes of the tensors whose values go to ``worker`` from now on."""
    carried: list[int] = []
    channel = worker._channel
    post, ask = channel.post, channel.ask

    def counted_post(commands: list[m.Command], puts: list[torch.Tensor]) -> object:
        carried.extend(put.nbytes for put in puts)
        return post(commands, puts)

    def counted_ask(commands: list[m.Command], puts: list[torch.Tensor], *question: object) -> object:
        carried.extend(put.nbytes for put in puts)
        return ask(commands, puts, *question)

    channel.post, channel.ask = counted_post, counted_ask
    return carried
