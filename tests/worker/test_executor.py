"""What an executor does with a caller's commands, when all goes well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cloister.errors import InteractiveRefusedError, MoveError
from cloister.tensor.geometry import Geometry
from cloister.wire import sessions as m
from cloister.wire.tensors import TensorSpec
from cloister.worker.executor import Executor
from tests.worker.sessions import Exchange, NoDataSets, OneDataSet, Session

PEER, TICKET = "sha256:" + "0" * 64, b"t" * 32
SIX = torch.arange(6.0).reshape(2, 3)


def answered(session: Session, question: m.Question) -> Any:
    answer, _ = session.executor.answer(question)
    return answer


def test_values_go_in_and_come_out() -> None:
    session = Session()
    x = session.put(SIX)
    answer, values = session.executor.answer(m.Fetch((x, x)))
    assert answer == m.Values((TensorSpec("float32", (2, 3)),) * 2)
    assert all(torch.equal(value, SIX) for value in values)
    assert session.count() == (1, 24)  # fetching takes nothing away


def test_puts_take_their_values_in_order() -> None:
    session = Session()
    first, second = session.new_id(), session.new_id()
    spec = TensorSpec("float32", ())
    failure = session.do(m.Put(first, spec), m.Put(second, spec), puts=[torch.tensor(1.0), torch.tensor(2.0)])
    assert failure is None
    assert (session.fetch(first), session.fetch(second)) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "expected"),
    [
        ("aten::add.Tensor", ["x", "x"], {"alpha": 2}, SIX * 3),
        ("aten::add.Tensor", ["x", [1]], {}, SIX + 1),
        ("aten::mul.Scalar", ["x", 2.5], {}, SIX * 2.5),
        (
            "aten::sum.dim_IntList",
            ["x", [1], True],
            {"dtype": "float64"},
            SIX.sum(1, keepdim=True, dtype=torch.float64),
        ),
        ("aten::_to_copy", ["x"], {"dtype": "int32", "device": None}, SIX.to(torch.int32)),
        ("aten::clone", ["x"], {"memory_format": "contiguous_format"}, SIX),
        ("aten::cat", [["x", "x"], 1], {}, torch.cat([SIX, SIX], 1)),
        ("aten::gelu", ["x"], {"approximate": "tanh"}, torch.nn.functional.gelu(SIX, approximate="tanh")),
        ("aten::zeros", [[2]], {"dtype": "bool"}, torch.zeros(2, dtype=torch.bool)),
        ("aten::index.Tensor", ["x", [None, "i"]], {}, SIX[:, [2, 0]]),
        ("aten::div.Tensor_mode", ["x", [2]], {"rounding_mode": "floor"}, SIX // 2),
        ("aten::arange", [3.0], {}, torch.arange(3.0)),
        ("aten::clamp", ["x", None, 2], {}, SIX.clamp(max=2)),
    ],
    ids=str,
)
def test_every_kind_of_argument(op: str, args: list[Any], kwargs: dict[str, Any], expected: torch.Tensor) -> None:
    session = Session()
    named = {"x": session.put(SIX), "i": session.put(torch.tensor([2, 0]))}

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return named.get(value, value) if isinstance(value, str) else value

    for _ in range(2):  # the second time from the cache
        got = session.fetch(session.call(op, *map(filled, args), **kwargs))
        assert got.dtype is expected.dtype
        assert torch.equal(got, expected)


def test_numbers_of_different_types_are_told_apart() -> None:
    """1, 1.0 and True are equal in Python, and not in PyTorch's rules for element types."""
    session = Session()
    x = session.put(torch.tensor([2]))
    types = [session.fetch(session.call("aten::add.Tensor", x, [one])).dtype for one in (1, 1.0, True, 1)]
    assert types == [torch.int64, torch.float32, torch.int64, torch.int64]


def test_several_outputs_and_absent_ones() -> None:
    session = Session()
    x, weight = session.put(SIX), session.put(torch.ones(3))
    values, indices = session.call("aten::max.dim", x, 1, outs=2)
    assert session.fetch(values).tolist() == [2.0, 5.0]
    assert session.fetch(indices).tolist() == [2, 2]
    normed, mean, rstd = session.call("aten::native_layer_norm", x, [3], weight, None, 1e-5, outs=3)
    before = session.count()[0]
    made = session.new_id()
    absent = m.Call(
        "aten::native_layer_norm_backward",
        [normed, x, [3], mean, rstd, weight, None, [True, False, False]],
        {},
        (made, 0, 0),
        None,
        0,
    )
    assert session.do(absent) is None
    assert session.count()[0] == before + 1
    assert session.fetch(made).shape == (2, 3)


def test_outputs_whose_shapes_depend_on_values_are_described() -> None:
    session = Session()
    x = session.put(SIX)
    found = session.call("aten::nonzero", x)
    described = answered(session, m.Describe((found, x)))
    assert described.specs == (m.StridedSpec("int64", (5, 2), (1, 5)), m.StridedSpec("float32", (2, 3), (3, 1)))


def test_a_view_describes_itself() -> None:
    session = Session()
    turned = session.call("aten::t", session.put(SIX))
    assert answered(session, m.Describe((turned,))).specs == (m.StridedSpec("float32", (3, 2), (1, 3)),)


def test_freed_objects_are_gone() -> None:
    session = Session()
    x = session.put(SIX)
    session.free(x)
    assert session.count() == (0, 0)
    assert answered(session, m.Fetch((x,))).code == "unknown-object"


def test_the_first_failure_answers_the_next_question_and_is_then_forgotten() -> None:
    session = Session()
    x = session.put(SIX)
    bad = m.Call("aten::mm", [x, x], {}, (session.new_id(),), None, 12)
    session.executor.run([bad, bad], [])
    failure = answered(session, m.Count())
    assert (failure.code, failure.op, failure.site) == ("op.runtime", "aten::mm", 12)
    assert isinstance(answered(session, m.Count()), m.Counted)


def test_what_follows_a_failure_is_still_run() -> None:
    session = Session()
    x = session.put(SIX)
    made = session.new_id()
    bad = m.Call("aten::mm", [x, x], {}, (session.new_id(),), None, 0)
    assert session.do(bad, m.Call("aten::neg", [x], {}, (made,), None, 0)) is not None
    assert torch.equal(session.fetch(made), -SIX)


def test_what_depends_on_something_that_failed_fails_in_the_same_way() -> None:
    session = Session()
    x = session.put(SIX)
    lost = session.new_id()
    assert session.fault("aten::index_select", x, 7, x, outs=[lost]).code == "op.index"
    assert session.fault("aten::neg", lost).code == "op.index"
    assert answered(session, m.Fetch((lost,))).code == "op.index"


# Tags and data sets.


def test_tagged_objects_are_found_and_outlive_their_id() -> None:
    session = Session()
    x = session.put(SIX)
    assert session.do(m.Tag(x, ("#a", "#b"))) is None
    session.free(x)
    first = 100
    found = answered(session, m.Search(("#b",), first))
    assert found == m.Found((m.Match(("#a", "#b"), m.StridedSpec("float32", (2, 3), (3, 1))),))
    assert torch.equal(session.fetch(first), SIX)
    session.free(first)
    assert answered(session, m.Search(("#a", "#b"), 200)) == found
    assert answered(session, m.Search(("#a", "#c"), 300)) == m.Found(())


def test_a_tagged_object_counts_its_memory_once() -> None:
    session = Session()
    x = session.put(SIX)
    session.do(m.Tag(x, ("#a",)))
    answered(session, m.Search(("#a",), 100))
    assert session.count() == (2, 24)
    session.free(x, 100)
    assert session.count() == (1, 24)


def test_tags_are_set_and_taken_off_by_any_id_of_the_object() -> None:
    session = Session()
    x = session.put(SIX)
    session.do(m.Tag(x, ("#a",)))
    answered(session, m.Search(("#a",), 100))
    assert session.do(m.Tag(100, ("#b",))) is None
    assert answered(session, m.Search(("#a",), 200)) == m.Found(())
    session.free(x)
    assert answered(session, m.Search(("#b",), 300)).matches[0].tags == ("#b",)
    assert session.do(m.Tag(300, ())) is None
    session.free(100, 300)
    assert session.count() == (0, 0)


def test_taking_off_what_is_not_there_is_no_fault() -> None:
    session = Session()
    x = session.put(SIX)
    assert session.do(m.Tag(x, ())) is None
    assert session.count() == (1, 24)
    failure = session.do(m.Tag(99, ()))
    assert failure is not None
    assert failure.code == "unknown-object"


def test_registered_data_sets_are_found_and_stay() -> None:
    session = Session(data_sets=OneDataSet(["#mri", "#x"], SIX))
    for first in (100, 200):
        found = answered(session, m.Search(("#mri",), first))
        assert [match.tags for match in found.matches] == [("#mri", "#x")]
        assert torch.equal(session.fetch(first), SIX)
        session.free(first)
    assert answered(session, m.Search(("#ct",), 300)) == m.Found(())


class Closed:
    """A node whose data sets are closed."""

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        raise InteractiveRefusedError("closed")


def test_closed_data_sets_are_refused_unless_something_open_was_found() -> None:
    session = Session(data_sets=Closed())
    assert answered(session, m.Search(("#a",), 100)).code == "interactive"
    session.do(m.Tag(session.put(SIX), ("#a",)))
    assert len(answered(session, m.Search(("#a",), 100)).matches) == 1


# Moves.


def test_values_are_pushed_and_taken() -> None:
    bob, alice = Session(), Session()
    turned = bob.call("aten::t", bob.put(SIX))
    assert bob.do(m.Push((turned,), PEER, TICKET, 0)) is None
    ((peer, ticket, pushed),) = bob.exchange.pushed
    assert (peer, ticket) == (PEER, TICKET)
    assert pushed[0].is_contiguous()
    alice.exchange.arriving = pushed
    assert alice.do(m.Take((50,), (TensorSpec("float32", (3, 2)),), PEER, TICKET, 0)) is None
    assert torch.equal(alice.fetch(50), SIX.T)
    assert alice.count() == (1, 24)


class Broken(Exchange):
    """A way to other workers on which nothing arrives."""

    def reach(self, peer: str) -> None:
        pass

    def push(self, peer: str, ticket: bytes, tensors: Sequence[torch.Tensor]) -> None:
        raise MoveError("the other worker cannot be reached")


def test_a_move_that_fails_leaves_everything_where_it_was() -> None:
    session = Session()
    session.executor = Executor(memory_bytes=1000, objects=10, data_sets=NoDataSets(), exchange=Broken())
    x = session.put(SIX)
    failure = session.do(m.Push((x,), PEER, TICKET, 9))
    assert failure == m.Failure("move", "move", 9, "the other worker cannot be reached")
    assert torch.equal(session.fetch(x), SIX)


def test_values_that_cannot_be_made_are_a_failure_and_not_the_end() -> None:
    """A lazy tensor is worked out when it is sent, and that can fail."""
    session = Session()
    id = session.new_id()
    lazy = torch._neg_view(torch.ones(2, dtype=torch.bool))  # no operation of a caller makes one
    session.executor._store.hold(id, lazy, Geometry.of(lazy))
    assert answered(session, m.Fetch((id,))).code == "op.not-implemented"
    assert session.count() == (1, 2)


def test_closing_forgets_everything() -> None:
    session = Session()
    session.do(m.Tag(session.put(SIX), ("#a",)))
    session.executor.close()
    assert session.count() == (0, 0)
    assert answered(session, m.Search(("#a",), 100)) == m.Found(())


def test_what_cannot_be_held_is_declined() -> None:
    small = Session(memory_bytes=1 << 10)
    failure = small.do(m.Take((1,), (TensorSpec("float32", (1000,)),), PEER, TICKET, 0))
    assert failure is not None
    assert failure.code == "memory"
    assert small.exchange.declined == [failure.text]
    assert small.count() == (1, 0)  # a note that the object was lost, and no memory
