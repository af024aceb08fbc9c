"""Attack: take more memory, or more objects, than the owner grants a session.

An operation that would is refused before it runs, from shapes, or where the size depends on values, from a bound on it.
The sessions here may hold 1 MiB, so that an operation that slipped through would do no harm to the machine.
"""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch

from cloister import VirtualWorker
from cloister.errors import MemoryLimitError, ObjectLimitError
from cloister.wire import sessions as m
from cloister.wire.tensors import TensorSpec
from tests.worker.sessions import MIB, Session

N = 1000
"""A row of so many float32 fits a thousand times over 1 MiB four times."""


class Small(Session):
    """A session of 1 MiB that holds something of each kind that memory can be made from."""

    def __init__(self) -> None:
        super().__init__(memory_bytes=MIB)
        self.named = {
            "row": self.put(torch.ones(1, N)),
            "column": self.put(torch.ones(N, 1)),
            "flat": self.put(torch.ones(N)),
            "mask": self.put(torch.ones(1, N, dtype=torch.bool)),
            "zero": self.put(torch.zeros(1, dtype=torch.int64)),
            "index": self.put(torch.zeros(N, dtype=torch.int64)),
            "thousand": self.put(torch.tensor([N * N])),
            "weights": self.put(torch.ones(1)),
            "image": self.put(torch.ones(1, 1, 4, 4)),
            "one": self.put(torch.ones(1, 1, 1)),
            "kernel": self.put(torch.ones(1, 1, 1, 1)),
            "complex": self.put(torch.ones(2, dtype=torch.complex64)),
            "points": self.put(torch.ones(N, 2)),
        }
        self.named["wide"] = self.call("aten::expand", self.named["row"], [N, N])  # a view: it holds no more than row
        self.named["bits"] = self.call("aten::expand", self.named["mask"], [N, N])
        self.named["long"] = self.call("aten::expand", self.named["index"], [N, N])

    def with_ids(self, value: Any) -> Any:
        """``value`` with ids in the places of names."""
        if isinstance(value, list):
            return [self.with_ids(item) for item in value]
        return self.named.get(value, value) if isinstance(value, str) else value


MAKING: dict[str, tuple[str, list[Any]]] = {
    "zeros": ("aten::zeros", [[N, N]]),
    "ones": ("aten::ones", [[N, N]]),
    "full": ("aten::full", [[N, N], 1.0]),
    "empty": ("aten::empty.memory_format", [[N, N]]),
    "empty_strided": ("aten::empty_strided", [[2], [N * N]]),
    "new_empty_strided": ("aten::new_empty_strided", ["row", [2], [N * N]]),
    "empty_permuted": ("aten::empty_permuted", [[N, N], [1, 0]]),
    "empty_like": ("aten::empty_like", ["wide"]),
    "zeros_like": ("aten::zeros_like", ["wide"]),
    "new_zeros": ("aten::new_zeros", ["row", [N, N]]),
    "arange": ("aten::arange", [N * N]),
    "linspace": ("aten::linspace", [0.0, 1.0, N * N]),
    "eye": ("aten::eye", [N]),
    "randn": ("aten::randn", [[N, N]]),
    "randperm": ("aten::randperm", [N * N]),
    "clone of an expanded tensor": ("aten::clone", ["wide"]),
    "conversion of an expanded tensor": ("aten::_to_copy", ["wide"]),
    "arithmetic on an expanded tensor": ("aten::add.Tensor", ["wide", [1.0]]),
    "an outer sum": ("aten::add.Tensor", ["row", "column"]),
    "an outer product": ("aten::mul.Tensor", ["row", "column"]),
    "a matrix product": ("aten::mm", ["column", "row"]),
    "a batched product": ("aten::bmm", [["B", "column"], ["B", "row"]]),
    "repeat": ("aten::repeat", ["row", [N, 1]]),
    "cat": ("aten::cat", [["row"] * 300]),
    "stack": ("aten::stack", [["row"] * 300]),
    "where": ("aten::where.self", ["mask", "row", "column"]),
    "index_select": ("aten::index_select", ["row", 0, "index"]),
    "index": ("aten::index.Tensor", ["row", ["index"]]),
    "index with masks": ("aten::index.Tensor", ["wide", ["bits"]]),
    "index with a mask beside an index": ("aten::index.Tensor", ["wide", ["index", "bits"]]),
    "gather": ("aten::gather", ["wide", 0, "long"]),
    "take": ("aten::take", ["row", "long"]),
    "embedding": ("aten::embedding", ["row", "index"]),
    "scatter, as one_hot does": ("aten::scatter.value", ["wide", 1, "long", 1.0]),
    "nonzero": ("aten::nonzero", ["wide"]),
    "nonzero_static": ("aten::nonzero_static", ["row"]),
    "masked_select": ("aten::masked_select", ["wide", "mask"]),
    "masked_select that broadcasts": ("aten::masked_select", ["column", "mask"]),
    "unique": ("aten::_unique2", ["wide"]),
    "repeat_interleave": ("aten::repeat_interleave.Tensor", ["thousand"]),
    "repeat_interleave with a promise": ("aten::repeat_interleave.Tensor", ["thousand"]),
    "bincount": ("aten::bincount", ["thousand"]),
    "bincount of few, with room for many": ("aten::bincount", ["zero", None, N * N]),
    "padding": ("aten::constant_pad_nd", ["row", [N * N, 0]]),
    "replicated padding": ("aten::replication_pad1d", ["row", [N * N, 0]]),
    "a convolution with huge padding": (
        "aten::convolution",
        ["image", "kernel", None, [1, 1], [N, N], [1, 1], False, [0, 0], 1],
    ),
    "a transposed convolution with a huge stride": (
        "aten::convolution",
        ["image", "kernel", None, [N, N], [0, 0], [1, 1], True, [0, 0], 1],
    ),
    "im2col": ("aten::im2col", ["image", [2, 2], [1, 1], [N, N], [1, 1]]),
    "col2im": ("aten::col2im", ["one", [N, N], [1, 1], [1, 1], [0, 0], [N, N]]),
    "a copy of an unfolded tensor": ("aten::_to_copy", [["U", "flat"]]),
    "upsampling": ("aten::upsample_nearest2d", ["image", [N, N]]),
    "average pooling to a large map": ("aten::_adaptive_avg_pool2d", ["image", [N, N]]),
    "fft of an expanded tensor": ("aten::_fft_r2c", ["wide", [1], 0, False]),
    "cdist": ("aten::_cdist_forward", ["points", "points", 2.0, None]),
    "pdist": ("aten::_pdist_forward", ["points", 2.0]),
    "diag_embed": ("aten::diag_embed", ["flat"]),
    "sort of an expanded tensor": ("aten::sort", ["wide"]),
    "softmax of an expanded tensor": ("aten::_softmax", ["wide", 1, False]),
    "a solution of few equations for many unknowns": ("aten::linalg_lstsq", ["row", "row"]),
    "a complete basis": ("aten::linalg_qr", ["column", "complete"]),
    "histc": ("aten::histc", ["row", N * N]),
}
OUTS = {"aten::_unique2": 3, "aten::sort": 2, "aten::linalg_lstsq": 4, "aten::linalg_qr": 2}
KEYWORDS: dict[str, dict[str, Any]] = {
    "a copy of an unfolded tensor": {"dtype": "float64"},
    "nonzero_static": {"size": N * N},
    "repeat_interleave with a promise": {"output_size": N * N},
}
RANDOM = {"randn", "randperm"}


@pytest.mark.slow
@pytest.mark.parametrize("case", MAKING, ids=str)
def test_no_operation_makes_more_than_the_session_may_hold(case: str) -> None:
    session = Small()
    op, args = MAKING[case]
    prepared = [_prepared(session, value) for value in args]
    before = session.count()
    failure = session.fault(
        op, *prepared, outs=OUTS.get(op, 1), seed=1 if case in RANDOM else None, **KEYWORDS.get(case, {})
    )
    assert failure.code == MemoryLimitError.code
    assert session.count()[1] == before[1]
    assert session.fetch(session.call("aten::sum", session.named["row"])) == N  # and the session goes on


def _prepared(session: Small, value: Any) -> Any:
    """An argument; ["B", x] stands for x as a batch of one, ["U", x] for x unfolded."""
    match value:
        case ["B", name]:
            return session.call("aten::unsqueeze", session.named[name], 0)
        case ["U", name]:
            return session.call("aten::unfold", session.named[name], 0, N // 2, 1)
    return session.with_ids(value)


def test_the_alignments_of_ctc() -> None:
    """Their number depends on lengths that are values, or a list of numbers."""
    longest = N * N // 2
    session = Session(memory_bytes=4 * MIB + MIB // 2)
    probabilities = session.put(torch.zeros(1, 2, 1))
    targets = session.put(torch.zeros(longest, dtype=torch.int32))
    lengths, ones = session.put(torch.tensor([longest, 0])), session.put(torch.ones(2, dtype=torch.int64))
    for op, given in (("aten::_ctc_loss", [[1, 1], [longest, 0]]), ("aten::_ctc_loss.Tensor", [ones, lengths])):
        assert session.fault(op, probabilities, targets, *given, outs=2).code == MemoryLimitError.code


def test_what_is_just_within_the_limit_is_made() -> None:
    session = Session(memory_bytes=MIB)
    whole = session.call("aten::zeros", [MIB // 4])
    assert session.count() == (1, MIB)
    assert session.fault("aten::zeros", [1]).code == MemoryLimitError.code
    session.call("aten::add_.Tensor", whole, [1.0], outs=0)  # in place: no more than before
    session.call("aten::view", whole, [2, MIB // 8])  # a view: the same memory
    session.free(whole)
    assert session.count()[1] == MIB  # the view still holds it


def test_values_that_arrive_are_held_to_the_limit_before_they_are_taken_in() -> None:
    session = Session(memory_bytes=MIB)
    with pytest.raises(MemoryLimitError):
        session.executor.allocate([TensorSpec("float32", (1 << 40,))])
    with pytest.raises(MemoryLimitError):
        session.executor.allocate([TensorSpec("float32", (MIB // 8,))] * 3)
    assert session.count() == (0, 0)


def test_many_small_steps_are_held_to_the_limit_too() -> None:
    session = Session(memory_bytes=MIB)
    made = [session.call("aten::zeros", [MIB // 64]) for _ in range(16)]
    assert session.fault("aten::zeros", [MIB // 64]).code == MemoryLimitError.code
    session.free(made[0])
    session.call("aten::zeros", [MIB // 64])


# Objects.


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("aten::unbind.int", []),
        ("aten::split.Tensor", [1]),
        ("aten::split_with_sizes", [[1] * 20]),
        ("aten::unsafe_split.Tensor", [1]),
        ("aten::unsafe_split_with_sizes", [[1] * 20]),
    ],
)
def test_no_operation_makes_more_objects_than_the_session_may_hold(op: str, args: list[Any]) -> None:
    session = Session(objects=20)
    x = session.put(torch.arange(20.0))
    ids = [session.new_id() for _ in range(20)]
    failure = session.fault(op, x, *args, outs=ids)
    assert failure.code == ObjectLimitError.code
    assert not any(type(session.executor._store.held.get(id)).__name__ == "Entry" for id in ids)
    session.free(*ids)
    assert session.count() == (1, 80)


def test_objects_one_at_a_time() -> None:
    session = Session(objects=3)
    x = session.put(torch.zeros(1))
    y, z = session.call("aten::neg", x), session.call("aten::neg", x)
    assert session.fault("aten::neg", x).code == ObjectLimitError.code
    failure = session.do(m.Put(session.new_id(), TensorSpec("float32", (1,))), puts=[torch.zeros(1)])
    assert failure is not None
    assert failure.code == ObjectLimitError.code
    session.free(y)
    session.call("aten::neg", z)


def test_failures_are_remembered_within_the_limit_only() -> None:
    session = Session(objects=10)
    x = session.put(torch.zeros(1))
    for _ in range(100):
        session.fault("aten::neg", x, x)
    assert session.count()[0] <= 10


# What the caller sees.


@pytest.mark.slow
def test_the_callers_error_is_typed_and_its_session_goes_on() -> None:
    bob = VirtualWorker(id="bob", memory_bytes=MIB)
    p: Any = torch.ones(N, 1).send(bob)  # type: ignore[attr-defined]
    with pytest.raises(MemoryLimitError, match=r"free tensors.*test_memory_limits\.py, line \d+"):
        p @ p.T
    with pytest.raises(MemoryError):  # also to code that knows Python's own errors only
        bob.zeros(N, N)
    with pytest.raises(MemoryLimitError):
        torch.ones(N, N).send(bob)  # type: ignore[attr-defined]
    gc.collect()
    assert bob.count().nbytes == 4 * N
    assert math.isclose((p.T @ p).item(), N)
