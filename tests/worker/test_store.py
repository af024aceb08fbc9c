"""What a session holds: objects within a limit, and the memory behind them, counted once however many views it has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from cloister.errors import MemoryLimitError, ObjectLimitError, OpRefusedError, RemoteIndexError, UnknownObjectError
from cloister.tensor.geometry import Geometry
from cloister.worker.store import Store
from tests.worker.sessions import Session

FOUR = torch.zeros(4)


@pytest.fixture
def store() -> Store:
    return Store(memory_bytes=100, objects=3)


def hold(store: Store, id: int, tensor: torch.Tensor = FOUR) -> None:
    store.hold(id, tensor, Geometry.of(tensor))


def test_it_counts_objects_and_bytes(store: Store) -> None:
    hold(store, 1)
    hold(store, 2, torch.zeros(4))
    assert (len(store), store.nbytes) == (2, 32)
    store.free([1])
    assert (len(store), store.nbytes) == (1, 16)
    store.clear()
    assert (len(store), store.nbytes) == (0, 0)


def test_a_view_shares_the_memory_of_what_it_views(store: Store) -> None:
    hold(store, 1)
    hold(store, 2, FOUR[1:])
    assert (len(store), store.nbytes) == (2, 16)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3)])
def test_memory_is_counted_until_the_last_view_of_it_is_freed(store: Store, order: Sequence[int]) -> None:
    hold(store, 1)
    hold(store, 2, FOUR[1:])
    hold(store, 3, FOUR[2:])
    for id in order:
        assert store.nbytes == 16
        store.free([id])
    assert store.nbytes == 0


def test_a_slice_counts_for_its_whole_storage(store: Store) -> None:
    hold(store, 1, torch.zeros(20)[:1])
    assert store.nbytes == 80


def test_room_is_for_bytes_and_for_objects(store: Store) -> None:
    hold(store, 1)
    store.check_room(nbytes=84, ids=(2, 3))
    with pytest.raises(MemoryLimitError, match=r"85 bytes.*holds 16 of the 100"):
        store.check_room(nbytes=85)
    with pytest.raises(ObjectLimitError, match="holds 1 objects and may hold 3"):
        store.check_room(nbytes=0, ids=(2, 3, 4))
    store.check_room(nbytes=0, ids=(2, 0, 3, 0, 0))  # 0: an object that is not made


def test_an_id_names_one_object(store: Store) -> None:
    hold(store, 1)
    with pytest.raises(OpRefusedError, match="never used twice"):
        store.check_room(nbytes=0, ids=(2, 1))
    with pytest.raises(OpRefusedError, match="never used twice"):
        store.check_room(nbytes=0, ids=(2, 2))


def test_an_unknown_object(store: Store) -> None:
    with pytest.raises(UnknownObjectError):
        store.entry(1)
    store.free([1, 2])


def test_a_lost_object_tells_what_became_of_it_each_time_anew(store: Store) -> None:
    store.lose([0, 1], RemoteIndexError("out of range"))
    faults = []
    for _ in range(2):
        with pytest.raises(RemoteIndexError, match="out of range") as caught:
            store.entry(1)
        faults.append(caught.value)
    assert faults[0] is not faults[1]
    assert (len(store), store.nbytes) == (1, 0)
    store.free([1])
    assert len(store) == 0


def test_losing_touches_no_object_that_is_there_and_goes_not_beyond_the_limit(store: Store) -> None:
    hold(store, 1)
    store.lose(range(1, 100), RemoteIndexError("out of range"))
    assert store.entry(1).tensor is FOUR
    assert len(store) == 3


# Which operations make views, as a session sees it.

VIEWS = {
    "view": ("aten::view", [[24]]),
    "as_strided": ("aten::as_strided", [[2], [1], 3]),
    "expand": ("aten::expand", [[5, 4, 6]]),
    "select": ("aten::select.int", [0, 1]),
    "slice": ("aten::slice.Tensor", [0, 1, 3]),
    "transpose": ("aten::transpose.int", [0, 1]),
    "permute": ("aten::permute", [[1, 0]]),
    "unsqueeze": ("aten::unsqueeze", [0]),
    "diagonal": ("aten::diagonal", []),
    "unfold": ("aten::unfold", [0, 2, 1]),
    "detach": ("aten::detach", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_holds_the_memory_of_its_tensor_and_no_more(name: str) -> None:
    session = Session()
    x = session.put(torch.arange(24.0).reshape(4, 6))
    op, args = VIEWS[name]
    viewed = session.call(op, x, *args)
    assert session.count() == (2, 96)
    session.call("aten::zero_", viewed, outs=0)
    assert session.fetch(x).count_nonzero() < 23  # the same memory
    session.free(x)
    assert session.count() == (1, 96)
    again = session.call("aten::alias", viewed)
    session.free(viewed)
    assert session.count() == (1, 96)
    session.free(again)
    assert session.count() == (0, 0)


def test_the_pieces_of_a_split_share_its_memory() -> None:
    session = Session()
    x = session.put(torch.arange(24.0).reshape(4, 6))
    pieces = session.call("aten::unbind.int", x, outs=4)
    assert session.count() == (5, 96)
    session.free(x, *pieces[1:])
    assert session.count() == (1, 96)
    assert torch.equal(session.fetch(pieces[0]), torch.arange(6.0))


@pytest.mark.parametrize(
    ("op", "args", "nbytes"),
    [
        ("aten::clone", [], 96),
        ("aten::sum", [], 4),
        ("aten::gt.Scalar", [0], 24),
        ("aten::argmax", [], 8),
        ("aten::_to_copy", [], 96),
    ],
)
def test_what_is_new_is_counted_for_itself(op: str, args: list[int], nbytes: int) -> None:
    session = Session()
    x = session.put(torch.arange(24.0).reshape(4, 6))
    made = session.call(op, x, *args)
    assert session.count() == (2, 96 + nbytes)
    session.free(x)
    assert session.count() == (1, nbytes)
    session.free(made)
    assert session.count() == (0, 0)


def test_an_operation_in_place_makes_no_object() -> None:
    session = Session()
    x = session.put(torch.zeros(4))
    session.call("aten::add_.Tensor", x, [1], outs=0)
    assert session.count() == (1, 16)
    assert torch.equal(session.fetch(x), torch.ones(4))
