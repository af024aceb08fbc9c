"""A caller who speaks the protocol and means harm: each attempt is a typed refusal, and the session goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch

from cloister.errors import MemoryLimitError, MessageError, WorkerError
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from tests.support.sessions import Session

KIB = 1 << 10


@pytest.fixture
def session() -> Iterator[Session]:
    """A session of 1 MiB and 100 objects which, whatever a test did to it, still works in the end."""
    session = Session()
    x = session.put(torch.arange(4.0))
    yield session
    session.executor.failure()
    y = session.made("mul.Scalar", x, 2.0)
    assert session.get(y).tolist() == [0.0, 2.0, 4.0, 6.0]
    session.executor.close()


def refused(failure: m.Failure | None, *codes: str) -> None:
    """It failed, with one of these codes, and with a type that the caller knows."""
    assert failure is not None
    assert failure.code in codes or not codes, failure
    assert WorkerError.from_code(failure.code) is not WorkerError


@pytest.mark.parametrize(
    "op",
    [
        "no_such_operation",
        "from_file",
        "set_",
        "set_.source_Tensor",
        "resize_",
        "_resize_output_",
        "save",
        "to_sparse",
        "quantize_per_tensor",
        "_local_scalar_dense",
        "empty.names",
        "__class__",
        "../prim::PythonOp",
        "",
        "add.Tensor.extra",
        "add.Tensor(Tensor self)",
    ],
)
def test_operations_that_no_worker_runs(session: Session, op: str) -> None:
    refused(session.call(op, 1, 1), "refused")


@pytest.mark.parametrize("op", ["prims::add", "cloister::x", "torch::from_file", "add", "", "aten::", "aten::\0"])
def test_operations_of_other_houses(session: Session, op: str) -> None:
    session.executor.run([m.Call(op, [1, 1], {}, (50,), None, 0)], [])
    refused(session.executor.failure(), "refused")


WRONG_ARGUMENTS: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("add.Tensor", [], {}),
    ("add.Tensor", [1], {}),
    ("add.Tensor", [1, 1, 1, 1, 1], {}),
    ("add.Tensor", ["1", 1], {}),
    ("add.Tensor", [1, None], {}),
    ("add.Tensor", [1, True], {}),
    ("add.Tensor", [1, 1.0], {}),
    ("add.Tensor", [1, [1.0, 2.0]], {}),
    ("add.Tensor", [1, [1j.real, None]], {}),
    ("add.Tensor", [1, [[1.0]]], {}),
    ("add.Tensor", [1, []], {}),
    ("add.Tensor", [1, 1], {"alpha": "2"}),
    ("add.Tensor", [1, 1], {"alpha": [2]}),
    ("add.Tensor", [1, 1], {"no_such": 1}),
    ("add.Tensor", [1, 1], {"out": 1}),
    ("sum.dim_IntList", [1, "0"], {}),
    ("sum.dim_IntList", [1, [0.5]], {}),
    ("sum.dim_IntList", [1, [True]], {}),
    ("sum.dim_IntList", [1, [[0]]], {}),
    ("sum.dim_IntList", [1, [0], 1], {}),
    ("sum.dim_IntList", [1, [None]], {}),
    ("sum.dim_IntList", [1, [1 << 62]], {}),
    ("sum.dim_IntList", [1, [0]], {"dtype": "float31"}),
    ("sum.dim_IntList", [1, [0]], {"dtype": 6}),
    ("sum.dim_IntList", [1, [0]], {"dtype": "__class__"}),
    ("sum", [1], {"dtype": "complex32"}),
    ("cat", [1], {}),
    ("cat", [[1, None, "x"]], {}),
    ("cat", [[1, 1.0]], {}),
    ("cat", [[]], {}),
    ("cat", [[True]], {}),
    ("cat", [[[1]]], {}),
    ("view", [1, [3]], {}),
    ("view", [1, [-2]], {}),
    ("reshape", [1, [-1, -1]], {}),
    ("transpose.int", [1, 5, 0], {}),
    ("select.int", [1, 0, 9], {}),
    ("gelu", [1], {"approximate": "none; import os"}),
    ("gelu", [1], {"approximate": 5}),
    ("div.Tensor_mode", [1, 1], {"rounding_mode": "up"}),
    ("to.dtype", [1, "float64"], {}),
    ("clone", [1], {"memory_format": "torch.channels_last"}),
    ("clone", [1], {"memory_format": ["channels_last"]}),
    ("zeros", [[2]], {"device": "cuda"}),
    ("zeros", [[2]], {"device": "meta"}),
    ("zeros", [[2]], {"layout": "sparse"}),
    ("zeros", [[-1]], {}),
    ("zeros", [["2"]], {}),
    ("zeros", [[1.5]], {}),
    ("mm", [1, 1], {}),
    ("convolution", [1, 1, None, [0], [0], [1], False, [0], 1], {}),
    ("max_pool2d_with_indices", [1, [0, 0]], {}),
    ("embedding", [1, 1], {}),
    ("_softmax", [1, 7, False], {}),
    ("index.Tensor", [1, [None, None, None]], {}),
    ("index.Tensor", [1, 1], {}),
    ("unbind.int", [1, -9], {}),
    ("split.Tensor", [1, 0], {}),
    ("split.Tensor", [1, -1], {}),
    ("repeat", [1, [-1]], {}),
    ("repeat_interleave.self_int", [1, -5], {}),
    ("one_hot", [1, -3], {}),
    ("upsample_bilinear2d", [1, [0, 0], False], {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "args", "kwargs"), WRONG_ARGUMENTS)
def test_arguments_that_do_not_fit(session: Session, op: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    refused(session.call(op, *args, **kwargs))


def test_an_argument_by_place_and_by_name(session: Session) -> None:
    session.executor.run([m.Call("aten::add.Tensor", [1, 1], {"self": 1}, (50,), None, 0)], [])
    refused(session.executor.failure())


@pytest.mark.parametrize("id", [2, 99, 1 << 62, 0, -1])
def test_ids_of_nobody(session: Session, id: int) -> None:
    refused(session.call("neg", id), "unknown-object")
    answer, values = session.executor.answer(m.Fetch((max(id, 1 if id != 1 else 2),)) if id > 1 else m.Fetch((77,)))
    assert isinstance(answer, m.Failure)
    assert answer.code == "unknown-object"
    assert not values


def test_ids_of_another_session(session: Session) -> None:
    other = Session()
    theirs = [other.put(torch.ones(1)) for _ in range(5)][-1]
    refused(session.call("neg", theirs), "unknown-object")


def test_an_id_is_never_used_twice(session: Session) -> None:
    refused(session.call("neg", 1, outs=[1]), "refused")
    assert session.get(1).tolist() == [0.0, 1.0, 2.0, 3.0]
    session.executor.run([m.Put(1, m.TensorSpec("float32", (1,)))], [torch.ones(1)])
    refused(session.executor.failure(), "refused")
    assert session.get(1).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_nor_twice_in_one_command(session: Session) -> None:
    before = session.counted
    refused(session.call("split.Tensor", 1, 2, outs=[60, 60]), "refused")
    session.free(60)
    assert session.counted == before


@pytest.mark.parametrize("outs", [0, 2, 5])
def test_the_wrong_number_of_outs(session: Session, outs: int) -> None:
    refused(session.call("neg", 1, outs=outs), "refused")


def test_an_out_for_an_operation_that_makes_nothing(session: Session) -> None:
    refused(session.call("mul_.Scalar", 1, 1.0, outs=1), "refused")


def test_absent_outs_where_something_is_made(session: Session) -> None:
    refused(session.call("neg", 1, outs=[0]), "refused")
    refused(session.call("split.Tensor", 1, 2, outs=[0, 61]), "refused")


def test_seeds_where_none_belong(session: Session) -> None:
    refused(session.call("neg", 1, seed=1), "refused")
    refused(session.call("mul_.Scalar", 1, 2.0, outs=0, seed=0), "refused")


def test_no_seed_where_one_belongs(session: Session) -> None:
    for op, args in (("bernoulli", [1]), ("rand", [[2]]), ("normal_", [1]), ("native_dropout", [1, 0.5, True])):
        refused(session.call(op, *args, outs={"normal_": 0, "native_dropout": 2}.get(op, 1)), "refused")


def test_a_seed_is_all_that_decides(session: Session) -> None:
    one, two = (session.get(session.made("rand", [8], seed=-5)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.initial_seed() != -5


AS_STRIDED: list[tuple[list[int], list[int], int]] = [
    ([5], [1], 0),
    ([4], [1], 1),
    ([2], [1000], 0),
    ([1], [1], 1 << 40),
    ([1 << 40], [1], 0),
    ([2], [-1], 3),
    ([1], [1], -1),
    ([-4], [1], 0),
    ([2, 2], [1], 0),
    ([1 << 32, 1 << 32], [0, 0], 0),
    ([2, 2], [(1 << 62) + 1, 1], 0),
]


@pytest.mark.parametrize(("size", "stride", "offset"), AS_STRIDED, ids=str)
def test_as_strided_stays_inside_its_storage(session: Session, size: list[int], stride: list[int], offset: int) -> None:
    refused(session.call("as_strided", 1, size, stride, offset))


def test_as_strided_may_not_leave_a_view_either(session: Session) -> None:
    view = session.made("slice.Tensor", 1, 0, 2, 4)
    assert (
        session.get(session.made("as_strided", view, [2], [1])).numel() == 2
    )  # from the storage's start, as PyTorch has it
    refused(session.call("as_strided", view, [4], [1], 2))


def test_a_view_of_wider_elements_stays_inside_too(session: Session) -> None:
    narrow = session.put(torch.zeros(3, dtype=torch.uint8))
    refused(session.call("view.dtype", narrow, "float32"))
    refused(session.call("view.dtype", narrow, "float16"))


def test_bools_hold_zero_or_one_only(session: Session) -> None:
    """PyTorch leaves a bool of any other byte undefined: neither a view to bool nor one from it may make such a one."""
    numbers = session.put(torch.tensor([0, 1, 2, 255], dtype=torch.uint8))
    refused(session.call("view.dtype", numbers, "bool"), "refused")
    truths = session.put(torch.tensor([True, False]))
    refused(session.call("view.dtype", truths, "uint8"), "refused")
    refused(session.call("view.dtype", truths, "int16"), "refused")
    assert session.get(session.made("view.dtype", truths, "bool")).tolist() == [True, False]
    assert session.get(session.made("_to_copy", numbers, dtype="bool")).tolist() == [False, True, True, True]


def expanded(session: Session) -> int:
    """A tensor of 2^40 elements in 4 bytes, which is allowed, as long as nobody writes it down."""
    one = session.put(torch.ones(1))
    return session.made("expand", one, [1 << 40])


GROWING: dict[str, Any] = {
    "zeros": lambda s: s.call("zeros", [1 << 40]),
    "zeros of many dimensions": lambda s: s.call("zeros", [1 << 20, 1 << 20]),
    "zeros beyond 64 bits": lambda s: s.call("zeros", [1 << 32, 1 << 32]),
    "full": lambda s: s.call("full", [1 << 30], 1.0),
    "arange": lambda s: s.call("arange", 1 << 40),
    "arange by a tiny step": lambda s: s.call("arange.start_step", 0, 1, 1e-12),
    "linspace": lambda s: s.call("linspace", 0, 1, 1 << 40),
    "eye": lambda s: s.call("eye", 1 << 20),
    "rand": lambda s: s.call("rand", [1 << 30], seed=1),
    "randperm": lambda s: s.call("randperm", 1 << 40, seed=1),
    "empty_strided": lambda s: s.call("empty_strided", [2], [1 << 40]),
    "new_zeros": lambda s: s.call("new_zeros", 1, [1 << 40]),
    "expand and clone": lambda s: s.call("clone", expanded(s)),
    "expand and copy of another type": lambda s: s.call("_to_copy", expanded(s), dtype="float64"),
    "expand and add": lambda s: s.call("add.Scalar", expanded(s), 1.0),
    "expand and sum along nothing": lambda s: s.call("cumsum", expanded(s), 0),
    "expand and compare": lambda s: s.call("gt.Scalar", expanded(s), 0.0),
    "expand and sort": lambda s: s.call("sort", expanded(s), outs=2),
    "repeat": lambda s: s.call("repeat", 1, [1 << 30]),
    "repeat_interleave by a number": lambda s: s.call("repeat_interleave.self_int", 1, 1 << 40),
    "repeat_interleave by a tensor": lambda s: s.call("repeat_interleave.Tensor", s.put(torch.full((4,), 1 << 40))),
    "bincount": lambda s: s.call("bincount", s.put(torch.tensor([1 << 40]))),
    "bincount of a least length": lambda s: s.call("bincount", s.put(torch.tensor([1])), None, 1 << 40),
    "nonzero": lambda s: s.call("nonzero", expanded(s)),
    "one-hot": lambda s: s.call("one_hot", s.put(torch.tensor([1 << 30])), 1 << 31),
    "cat": lambda s: s.call("cat", [s.put(torch.zeros(64 * KIB))] * 8),
    "stack": lambda s: s.call("stack", [s.put(torch.zeros(64 * KIB))] * 8),
    "index by a mask": lambda s: s.call("index.Tensor", expanded(s), [s.made("gt.Scalar", 1, 9.0)]),
    "index by numbers": lambda s: s.call(
        "index.Tensor", s.put(torch.zeros(4, 64 * KIB // 4)), [s.put(torch.zeros(100, dtype=torch.int64))]
    ),
    "index_select": lambda s: s.call(
        "index_select", s.put(torch.zeros(4, 64 * KIB // 4)), 0, s.put(torch.zeros(100, dtype=torch.int64))
    ),
    "gather": lambda s: s.call("gather", 1, 0, s.made("expand", s.put(torch.zeros(1, dtype=torch.int64)), [1 << 40])),
    "take": lambda s: s.call("take", 1, s.made("expand", s.put(torch.zeros(1, dtype=torch.int64)), [1 << 40])),
    "masked_select": lambda s: s.call("masked_select", expanded(s), s.put(torch.ones(1, dtype=torch.bool))),
    "embedding": lambda s: s.call(
        "embedding", s.put(torch.zeros(4, 16 * KIB)), s.put(torch.zeros(100, dtype=torch.int64))
    ),
    "pad": lambda s: s.call("constant_pad_nd", 1, [0, 1 << 40]),
    "upsample": lambda s: s.call("upsample_nearest1d", s.put(torch.zeros(1, 1, 4)), [1 << 40]),
    "unfold": lambda s: s.call("im2col", s.put(torch.zeros(1, 1, 64, 64)), [32, 32], [1, 1], [0, 0], [1, 1]),
    "outer product": lambda s: s.call("mul.Tensor", s.put(torch.zeros(KIB, 1)), s.put(torch.zeros(1, KIB))),
    "matrix product": lambda s: s.call("mm", s.put(torch.zeros(KIB, 1)), s.put(torch.zeros(1, KIB))),
    "convolution": lambda s: s.call(
        "convolution",
        s.put(torch.zeros(1, 1, 4)),
        s.put(torch.zeros(1, 1, 1)),
        None,
        [1],
        [1 << 30],
        [1],
        False,
        [0],
        1,
    ),
    "distances": lambda s: s.call("_cdist_forward", s.put(torch.zeros(KIB, 1)), s.put(torch.zeros(KIB, 1)), 2.0, None),
    "triangle": lambda s: s.call("tril_indices", 1 << 20, 1 << 20),
    "diagonal": lambda s: s.call("diag_embed", s.put(torch.zeros(2 * KIB))),
    "tuples": lambda s: s.call("combinations", s.put(torch.zeros(KIB)), 3),
    "stft": lambda s: s.call("_fft_r2c", expanded(s), [0], 0, True),
    "histogram": lambda s: s.call("histc", 1, 1 << 40),
    "unique": lambda s: s.call("_unique2", expanded(s), outs=3),
    "vander": lambda s: s.call("linalg_vander", 1, N=1 << 40),
    "pooling backward": lambda s: s.call("_adaptive_avg_pool2d", s.put(torch.zeros(1, 1, 4, 4)), [1 << 20, 1 << 20]),
    "slice backward": lambda s: s.call("slice_backward", 1, [1 << 40], 0, 0, 4, 1),
    "select backward": lambda s: s.call("select_backward", s.put(torch.ones(())), [1 << 40], 0, 0),
    "embedding backward": lambda s: s.call(
        "embedding_dense_backward",
        s.put(torch.zeros(1, 4)),
        s.put(torch.zeros(1, dtype=torch.int64)),
        1 << 40,
        -1,
        False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWING)
def test_memory_is_refused_before_it_is_taken(session: Session, name: str) -> None:
    before = session.counted.nbytes
    failure = GROWING[name](session)
    refused(failure)
    assert session.counted.nbytes <= before + (1 << 20)
    assert session.counted.nbytes <= 1 << 20


def test_the_limit_counts_what_is_held(session: Session) -> None:
    kept = []
    failure = None
    for _ in range(20):
        id = next(session.numbers)
        failure = session.call("zeros", [32 * KIB], outs=[id])  # 128 KiB
        if failure is not None:
            break
        kept.append(id)
    refused(failure, "memory")
    assert len(kept) == 7
    session.free(kept.pop())
    kept.append(session.made("zeros", [32 * KIB]))
    session.free(*kept)
    assert session.counted.nbytes == 16


def test_a_view_keeps_its_memory_counted(session: Session) -> None:
    whole = session.made("zeros", [128 * KIB])
    session.made("slice.Tensor", whole, 0, 0, 1)
    session.free(whole)
    refused(session.call("zeros", [160 * KIB]), "memory")


def test_in_place_growth_is_refused(session: Session) -> None:
    for op, args in (
        ("resize_", [1, [1 << 30]]),
        ("resize_as_", [1, 1]),
        ("squeeze_", [1]),
        ("t_", [1]),
        ("as_strided_", [1, [1], [1]]),
        ("set_.source_Tensor", [1, 1]),
        ("swapaxes_", [1, 0, 0]),
    ):
        refused(session.call(op, *args, outs=0), "refused")


def test_values_that_arrive_are_counted_before_they_do(session: Session) -> None:
    with pytest.raises(MemoryLimitError):
        session.executor.allocate([m.TensorSpec("float64", (1 << 40,))])
    with pytest.raises(MemoryLimitError):
        session.executor.allocate([m.TensorSpec("float64", (16 * KIB,))] * 9)


def test_the_number_of_objects_is_limited(session: Session) -> None:
    failure, made = None, 0
    while failure is None and made < 200:
        failure = session.call("neg", 1)
        made += failure is None
    refused(failure, "objects")
    assert made == 99
    session.free(*range(2, 60))


def test_so_are_many_at_once(session: Session) -> None:
    long = session.put(torch.zeros(1000))
    refused(session.call("unbind.int", long, outs=1000), "objects")
    assert session.counted.objects <= 100
    session.free(*range(2, 1100))


def test_failures_do_not_pile_up(session: Session) -> None:
    for _ in range(500):
        session.call("no_such_operation", 1)
    assert session.counted.objects <= 100
    session.free(*range(2, 600))
    assert session.counted.objects == 1


def test_tags_do_not_pile_up(session: Session) -> None:
    for _ in range(300):
        session.executor.run([m.Tag(1, ("#t",))], [])
    assert session.executor.failure() is None
    assert len(session.executor._store.tags) == 1
    session.free(1)
    assert session.call("neg", 1, outs=[1]) is not None  # what a tag holds counts, and its id stays in use
    assert session.counted.objects == 1


def test_pushing_and_taking_what_is_not_there(session: Session) -> None:
    peer, ticket = "sha256:" + "0" * 64, b"t" * 32
    session.executor.run([m.Push((1,), peer, ticket, 0)], [])
    refused(session.executor.failure(), "move")
    session.executor.run([m.Push((88,), peer, ticket, 0)], [])
    refused(session.executor.failure(), "unknown-object")
    session.executor.run([m.Take((80, 81), (m.TensorSpec("float32", (1,)),), peer, ticket, 0)], [])
    refused(session.executor.failure(), "refused")
    session.executor.run([m.Take((82,), (m.TensorSpec("float32", (1 << 40,)),), peer, ticket, 0)], [])
    refused(session.executor.failure(), "memory")
    session.executor.run([m.Take((83,), (m.TensorSpec("float128", (1,)),), peer, ticket, 0)], [])
    refused(session.executor.failure())


def test_errors_carry_no_values(session: Session) -> None:
    secret = session.put(torch.tensor([987654321]))
    for op, args in (
        ("embedding", [session.put(torch.zeros(3, 2)), secret]),
        ("index_select", [1, 0, secret]),
        ("bincount", [secret]),
        ("repeat_interleave.Tensor", [secret]),
        ("gather", [1, 0, secret]),
    ):
        failure = session.call(op, *args)
        refused(failure)
        assert "987654321" not in failure.text


def test_lists_are_no_deeper_than_a_list_of_lists() -> None:
    data = msgspec.msgpack.encode([[["call", "aten::neg", [[[[1]]]], {}, [5], None, 0]]])
    with pytest.raises(MessageError, match="decode"):
        m.decode(Kind.BATCH, data)


def test_hostile_numbers_do_not_break_it(session: Session) -> None:
    for number in (float("nan"), float("inf"), -float("inf"), 1e308, -(1 << 63), (1 << 63) - 1, 1 << 64, True, -0.0):
        failure = session.call("add.Scalar", 1, number)
        if failure is not None:
            assert WorkerError.from_code(failure.code) is not WorkerError
        refused(session.call("sum.dim_IntList", 1, [number]))


def test_another_sessions_failure_is_not_seen(session: Session) -> None:
    other = Session()
    other.executor.run([m.Call("aten::nothing", [], {}, (), None, 0)], [])
    assert session.executor.failure() is None
    refused(other.executor.failure(), "refused")
