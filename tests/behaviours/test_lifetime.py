"""Behaviours 11 to 13, 23, 32, 34 and 35: how long an object lives, where it goes, and what a pointer is not."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import resource
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cloister import PointerTensor
from cloister.errors import (
    CloisterError,
    NotColocatedError,
    PointerAssignmentError,
    PointerNotPortableError,
    WorkerError,
)
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import Connect, objs


def test_11_deleting_a_pointer_frees_the_object(b: Worker) -> None:
    p = torch.zeros(10).send(b)
    q = p + 1
    assert objs(b) == 2
    del p
    assert objs(b) == 1
    del q
    assert b.count().objects == b.count().nbytes == 0


def test_11_rebinding_in_a_loop_leaves_one_object(b: Worker) -> None:
    p = b.zeros(3)
    for _ in range(50):
        p = p + 1
    assert objs(b) == 1
    assert p.get().tolist() == [50.0] * 3


def test_11_memory_lives_as_long_as_its_last_view(b: Worker) -> None:
    p = torch.arange(6.0).send(b)
    view = p[2:4]
    del p
    assert b.count().nbytes == 24
    assert view.get().tolist() == [2.0, 3.0]
    del view  # PyTorch's views hold the tensor that they are views of
    assert b.count().nbytes == 0


@pytest.mark.slow
def test_11_a_traceback_does_not_keep_objects_for_ever(b: Worker) -> None:
    def fail() -> None:
        held = b.zeros(1000)
        held + b.zeros(3)

    with pytest.raises(RuntimeError) as found:
        fail()
    assert objs(b)  # the traceback has the frame, and the frame has the pointers
    del found
    gc.collect()
    assert objs(b) == 0


@pytest.mark.slow
def test_11_an_error_at_the_worker_keeps_nothing(b: Worker) -> None:
    p = b.zeros(2, 2)
    for _ in range(5):
        with pytest.raises(WorkerError):
            torch.linalg.inv(p).get()
    gc.collect()
    assert objs(b) == 1


def test_11_a_graph_is_freed_with_its_loss(b: Worker) -> None:
    p = torch.ones(3).send(b).requires_grad_()
    loss = (p.exp() * 2).sum()
    assert objs(b) > 2
    loss.backward()
    del loss
    assert objs(b) == 2  # p and its gradient
    p.grad = None
    assert objs(b) == 1


def test_12_move_goes_to_the_other_worker(b: Worker, a: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b)
    assert p.move(a) is p
    assert p.location is a
    assert (objs(b), objs(a)) == (0, 1)
    assert (p * 2).get().tolist() == [2.0, 4.0]


def test_12_a_view_is_moved_as_its_values(b: Worker, a: Worker) -> None:
    p = torch.arange(6.0).reshape(2, 3).send(b)
    view = p[:, 1:].t()
    view.move(a)
    assert b.count().nbytes == 24
    assert a.count().nbytes == 16
    assert view.is_contiguous()
    assert view.get().tolist() == [[1.0, 4.0], [2.0, 5.0]]
    assert p.sum().get() == 15.0


def test_12_to_the_same_worker_nothing_happens(b: Worker) -> None:
    p = torch.tensor([1.0]).send(b)
    remote = p.remote
    assert p.move(b) is p
    assert p.remote is remote


def test_12_what_is_moved_can_be_moved_on(b: Worker, a: Worker, c: Worker) -> None:
    p = torch.tensor([[1, 2], [3, 4]]).send(b)
    p.move(a).move(c)
    assert [objs(w) for w in (b, a, c)] == [0, 0, 1]
    assert torch.equal(p.get(), torch.tensor([[1, 2], [3, 4]]))


def test_12_a_leaf_with_its_gradient_wish_stays_one(b: Worker, a: Worker) -> None:
    p = torch.ones(2).send(b).requires_grad_()
    p.move(a)
    assert p.is_leaf
    assert p.requires_grad
    (p * 3).sum().backward()
    assert p.grad.get().tolist() == [3.0, 3.0]


def test_12_send_to_another_worker_names_move(b: Worker, a: Worker) -> None:
    p = b.zeros(2)
    with pytest.raises(PointerAssignmentError, match=r"move\(\)"):
        p.send(a)


def test_13_tags_find_what_was_sent(b: Worker) -> None:
    x = torch.tensor([1.0, 2.0])
    x.send(b, tags=["#a"])
    x.send(b, tags=["#a", "#b"])
    assert len(b.search("#a")) == 2
    (both,) = b.search("#a", "#b")
    assert both.location is b
    assert torch.equal(both.get(keep=True), x)
    assert b.search("#c") == []


def test_13_deleting_pointers_does_not_delete_the_data_set(b: Worker) -> None:
    torch.tensor([1.0, 2.0]).send(b, tags=["#data"])
    for _ in range(3):
        (found,) = b.search("#data")
        assert found.sum().get() == 3.0
        found.get(keep=True)
    assert b.search("#data")


ENDS: dict[str, Callable[[PointerTensor, Worker], object]] = {
    "get": lambda p, a: p.get(),
    "move": lambda p, a: p.move(a),
    "untag": lambda p, a: p.untag(),
    "untag all by name": lambda p, a: p.untag("#a", "#b"),
    "get of a module": lambda p, a: nn.ParameterList([nn.Parameter(p)]).get(),  # type: ignore[operator]
}


@pytest.mark.slow
@pytest.mark.parametrize("through", ["the pointer that was sent", "one that was found"])
@pytest.mark.parametrize("way", ENDS)
def test_41_what_is_taken_away_or_untagged_is_held_no_longer(b: Worker, a: Worker, way: str, through: str) -> None:
    p = torch.ones(4).send(b, tags=["#a", "#b"])
    assert p.tags == ("#a", "#b")
    if through == "one that was found":
        del p
        (p,) = b.search("#a")
    ENDS[way](p, a)
    assert p.tags == ()
    assert b.search("#a") == []
    del p
    assert b.count().objects == b.count().nbytes == 0


def test_41_get_keep_leaves_the_tags(b: Worker) -> None:
    p = torch.ones(4).send(b, tags=["#a"])
    p.get(keep=True)
    p.sum().get()
    assert p.tags == ("#a",)
    assert len(b.search("#a")) == 1


def test_41_one_of_several_tags_is_taken_off(b: Worker) -> None:
    p = torch.ones(4).send(b, tags=["#a", "#b"])
    p.untag("#a")
    assert p.tags == ("#b",)
    del p
    assert b.search("#a") == []
    (found,) = b.search("#b")
    assert found.tags == ("#b",)
    found.untag("#unknown")
    assert found.tags == ("#b",)


def test_41_count_tells_what_is_held_tagged_or_not(b: Worker) -> None:
    p = torch.ones(4).send(b, tags=["#a"])
    assert (b.count().objects, b.count().nbytes) == (1, 16)
    del p
    assert (b.count().objects, b.count().nbytes) == (1, 16)
    (found,) = b.search("#a")
    assert b.count().nbytes == 16
    found.untag()
    assert (b.count().objects, b.count().nbytes) == (1, 16)
    assert found.sum().item() == 4.0
    del found
    assert (b.count().objects, b.count().nbytes) == (0, 0)


def test_41_searching_again_and_again_keeps_nothing(b: Worker) -> None:
    torch.ones(4).send(b, tags=["#a"])
    for _ in range(100):
        b.search("#a")
    assert objs(b) == 1
    assert not b._tags


def test_23_deepcopy_gives_a_new_object(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b).requires_grad_()
    (p * 2).sum().backward()
    q = copy.deepcopy(p)
    assert q.remote.id != p.remote.id
    assert (q.is_leaf, q.requires_grad) == (True, True)
    with torch.no_grad():
        q.add_(1)
        q.grad.zero_()
    assert p.get(keep=True).tolist() == [1.0, 2.0]
    assert p.grad.get().tolist() == [2.0, 2.0]
    assert q.get().tolist() == [2.0, 3.0]


def test_23_deepcopy_of_a_sent_module_is_no_alias(b: Worker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).send(b)
    twin = copy.deepcopy(model)
    ours, theirs = ({t.remote.id for t in (*m.parameters(), *m.buffers())} for m in (model, twin))
    assert not ours & theirs
    assert all(isinstance(p, nn.Parameter) for p in twin.parameters())
    before = [p.get(keep=True) for p in model.parameters()]
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1)
    assert all(torch.equal(p.get(keep=True), x) for p, x in zip(model.parameters(), before, strict=True))


def test_23_a_pointer_is_no_value(b: Worker) -> None:
    import numpy as np

    p = b.zeros(2)
    for act in (
        lambda: pickle.dumps(p),
        lambda: torch.save(p, io.BytesIO()),
        lambda: torch.save(nn.Linear(2, 2).send(b).state_dict(), io.BytesIO()),
        lambda: copy.copy(p),
        lambda: p.numpy(),
        lambda: np.asarray(p),
        lambda: p.share_memory_(),
    ):
        with pytest.raises(PointerNotPortableError):
            act()
    with pytest.raises((CloisterError, RuntimeError, BufferError)):
        p.__dlpack__()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_32_ten_thousand_iterations_leave_memory_flat(b: Worker, kind: str) -> None:
    iterations = 10_000 if kind != "virtual-encoded" else 2_000
    model = nn.Linear(2, 1).send(b)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(4, 2).send(b), torch.randn(4, 1).send(b)

    def iterate(times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            ((model(x) - y) ** 2).sum().backward()
            optimizer.step()

    def held() -> tuple[int, int]:
        counted = b.count()
        return counted.objects, counted.nbytes

    iterate(200)
    before, resident = held(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    iterate(iterations)
    assert held() == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 8 << 10  # KiB
    tracemalloc.start()
    try:
        iterate(50)
        held()
        first, _ = tracemalloc.get_traced_memory()
        iterate(200)
        held()
        second, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert second - first < 64 << 10


def test_34_data_of_a_pointer_rebinds(b: Worker, a: Worker) -> None:
    p, q = b.zeros(2), b.ones(3, 3)
    p.data = q
    assert p.shape == (3, 3)
    assert torch.equal(p.get(keep=True), torch.ones(3, 3))
    parameter = nn.Linear(2, 2).send(b).weight
    parameter.data = a.ones(2, 2)
    assert isinstance(parameter, nn.Parameter)
    assert parameter.location is a
    assert torch.equal((parameter * 2).detach().get(), torch.full((2, 2), 2.0))


def test_34_data_and_gradients_stay_on_one_side(b: Worker) -> None:
    p, local = b.zeros(2), torch.ones(2)
    with pytest.raises(PointerAssignmentError, match="copy_"):
        p.data = local
    with pytest.raises((PointerAssignmentError, RuntimeError)):
        p.grad = local
    with pytest.raises((PointerAssignmentError, RuntimeError, TypeError)):
        local.data = p
    assert type(local) is torch.Tensor
    assert local.tolist() == [1.0, 1.0]
    assert p.get().tolist() == [0.0, 0.0]


RESHAPED = {
    "t_": lambda p: p.t_(),
    "unsqueeze_": lambda p: p.unsqueeze_(0),
    "squeeze_": lambda p: p.unsqueeze(1).squeeze_(),
    "squeeze_(dim)": lambda p: p.unsqueeze(1).squeeze_(1),
    "transpose_": lambda p: p.transpose_(0, 1),
    "swapaxes_": lambda p: p.swapaxes_(0, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESHAPED)
def test_34_reshaping_in_place_changes_the_callers_shape_too(b: Worker, name: str) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    p = x.send(b)
    expected = RESHAPED[name](x)
    got = RESHAPED[name](p)
    assert (got.shape, got.stride()) == (expected.shape, expected.stride())
    assert torch.equal((got + 0).get(), expected)
    assert torch.equal(got.get(), expected)


def test_34_it_is_the_same_pointer(b: Worker) -> None:
    p = b.zeros(2, 3)
    alias = p
    assert p.t_() is p
    assert alias.shape == (3, 2)


def test_34_a_gradient_goes_through_it(b: Worker) -> None:
    p = torch.randn(2, 3).send(b).requires_grad_()
    y = (p * 2).unsqueeze_(1)
    y.transpose_(0, 2)
    assert y.shape == (3, 1, 2)
    y.pow(2).sum().backward()
    assert torch.allclose(p.grad.get(), 8 * p.detach().get())


def test_34_resizing_is_refused(b: Worker) -> None:
    p = b.zeros(2)
    for act in (
        lambda: p.resize_(4),
        lambda: p.resize_as_(b.zeros(4)),
        lambda: p.set_(b.ones(3)),
        lambda: p.set_(torch.ones(3)),
        lambda: p.set_(),
    ):
        with pytest.raises((PointerAssignmentError, NotColocatedError)):
            act()
    assert p.shape == (2,)
    assert p.get().tolist() == [0.0, 0.0]


def test_35_a_value_may_be_printed(b: Worker) -> None:
    loss = torch.tensor([1.0, 1.25]).send(b).sum()
    assert f"{loss:.3f}" == "2.250"
    assert float(loss) == loss.item() == 2.25
    assert int(loss) == 2
    assert bool(loss > 2)
    assert loss.tolist() == 2.25


def test_35_load_state_dict_uploads(b: Worker) -> None:
    torch.manual_seed(1)
    wanted = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).send(b)
    parameter = model[0].weight
    model.load_state_dict(wanted.state_dict())
    assert model[0].weight is parameter
    assert all(isinstance(t, PointerTensor) and t.location is b for t in model.state_dict().values())
    got = model.get().state_dict()
    assert all(torch.equal(got[name], value) for name, value in wanted.state_dict().items())


def test_35_a_sent_state_dict_comes_home(b: Worker) -> None:
    there, here = nn.Linear(3, 2).send(b), nn.Linear(3, 2)
    here.load_state_dict(there.state_dict())
    there.get()
    assert torch.equal(here.weight, there.weight)


def test_35_a_closed_session_says_so(connect: Connect) -> None:
    worker = connect("b")
    p = worker.zeros(2)
    worker.close()
    with pytest.raises(CloisterError):
        p.get()
