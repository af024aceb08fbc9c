"""Attack: commands that no honest caller sends, and what they could leave behind.

``test_hostile_caller.py`` says everything wrong that can be said in one command. Here is what would go wrong later: an
object that nothing can free, memory that nobody counts, a value in an error's text; and the same over TLS.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from cloister.errors import MessageError, OpRefusedError, WorkerError
from cloister.wire import sessions as m
from cloister.wire.tensors import TensorSpec
from tests.support.nodes import Federation
from tests.worker.sessions import MIB, Session

HUGE = 1 << 48
VALUES = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
PEER, TICKET = "sha256:" + "0" * 64, b"t" * 32
ONE = TensorSpec("float32", (1,))


@pytest.fixture
def session() -> Session:
    return Session(memory_bytes=MIB)


def test_id_zero_for_a_tensor_that_is_made(session: Session) -> None:
    """It would be held where nothing could free it."""
    x = session.put(VALUES)
    before = session.count()
    for op, outs in (("aten::neg", [0]), ("aten::nonzero", [0]), ("aten::unbind.int", [0, 0])):
        assert session.fault(op, x, outs=outs).code == OpRefusedError.code
    assert session.count() == before


def test_an_id_twice_in_one_command(session: Session) -> None:
    x, id = session.put(VALUES), session.new_id()
    assert session.fault("aten::unbind.int", x, outs=[id, id]).code == OpRefusedError.code
    other = session.new_id()
    failure = session.do(m.Take((other, other), (ONE, ONE), PEER, TICKET, 0))
    assert failure is not None
    assert failure.code == OpRefusedError.code


def test_arguments_by_name_only(session: Session) -> None:
    """Not how a caller sends them, but no harm: also the views among them are accounted for, and the bounds hold."""
    x = session.put(VALUES)
    viewed = session.call("aten::view", self=x, size=[4])
    assert session.count() == (2, 16)
    session.free(x)
    assert torch.equal(session.fetch(viewed), VALUES.reshape(4))
    few, many = session.put(torch.ones(1)), session.put(torch.tensor([1 << 40]))
    assert session.fault("aten::bincount", weights=few, self=many).code == "memory"


def test_a_failed_operation_keeps_no_tensor_alive(session: Session) -> None:
    """A failure that remembered its traceback would hold the operation's arguments, uncounted."""
    x, y = session.put(VALUES), session.put(torch.zeros(3))
    held = weakref.ref(session.executor._store.entry(x).tensor)
    gc.disable()
    try:
        session.fault("aten::mm", x, y)
        session.fault("aten::as_strided", x, [HUGE], [1])
        session.fault("aten::embedding", x, x)
        session.free(x)
        assert held() is None
    finally:
        gc.enable()


def test_what_failed_can_be_freed(session: Session) -> None:
    x, y = session.put(VALUES), session.put(torch.zeros(3))
    before = session.count()
    lost, another = session.new_id(), session.new_id()
    assert session.fault("aten::mm", x, y, outs=[lost]).code == "op.runtime"
    assert session.fault("aten::neg", lost, outs=[another]).code == "op.runtime"
    session.free(lost, another)
    assert session.count() == before
    assert session.fault("aten::neg", lost).code == "unknown-object"


def test_fetching_an_expanded_tensor_is_held_to_the_limit(session: Session) -> None:
    """Four numbers, viewed as 2**40: the view costs nothing, and its values would cost terabytes."""
    wide = session.call("aten::expand", session.put(VALUES), [1 << 38, 2, 2])
    answer, values = session.executor.answer(m.Fetch((wide,)))
    assert isinstance(answer, m.Failure)
    assert (answer.code, values) == ("memory", [])
    failure = session.do(m.Push((wide,), PEER, TICKET, 0))
    assert failure is not None
    assert failure.code == "memory"
    assert not session.exchange.pushed


def test_fetching_one_object_many_times_copies_nothing(session: Session) -> None:
    answer, values = session.executor.answer(m.Fetch((session.put(VALUES),) * 4096))
    assert isinstance(answer, m.Values)
    assert len({value.data_ptr() for value in values}) == 1


@pytest.mark.filterwarnings("ignore:ComplexHalf")  # which PyTorch says once in a process
def test_an_element_type_that_does_not_travel_is_not_made_either(session: Session) -> None:
    """Whoever asked for its description would get none."""
    half = session.call("aten::_to_copy", session.put(VALUES), dtype="float16")
    assert session.fault("aten::complex", half, half).code == OpRefusedError.code
    assert session.fault("aten::complex", half, half).code == OpRefusedError.code  # also from the cache


@pytest.mark.parametrize("specs", [(), (ONE, ONE), (TensorSpec("quint8", (1,)),), (TensorSpec("int8", (HUGE, HUGE)),)])
def test_a_move_that_does_not_fit(session: Session, specs: tuple[TensorSpec, ...]) -> None:
    failure = session.do(m.Take((session.new_id(),), specs, PEER, TICKET, 3))
    assert failure is not None
    assert (failure.code, failure.op, failure.site) == ("refused", "move", 3)


def test_a_failure_tells_no_value(session: Session) -> None:
    """Neither PyTorch's text, which may quote one, nor a size that was computed from one."""
    secret = 123456789
    held, small = session.put(torch.tensor([secret])), session.put(torch.zeros(4))
    for failure in (
        session.fault("aten::index_select", small, 0, held),
        session.fault("aten::bincount", held),
        session.fault("aten::repeat_interleave.Tensor", held),
        session.fault("aten::index.Tensor", small, [held]),
    ):
        for told in (secret, secret * 8, (secret + 1) * 8):
            assert str(told) not in failure.text


@pytest.mark.e2e
def test_hostile_commands_over_tls(three_nodes: Federation) -> None:
    """Said to a worker process: the session answers each with one failure and lives on."""
    with three_nodes.connect("c") as worker:
        channel = worker._channel
        kept = VALUES.send(worker)  # type: ignore[attr-defined]
        worker.flush()
        x, new = kept.remote.id, 1 << 40
        for op, args, outs, seed, code in (
            ("aten::from_file", ["somewhere", True, 4], (new,), None, "refused"),
            ("aten::neg", [x], (), None, "refused"),
            ("aten::neg", [x], (0,), None, "refused"),
            ("aten::neg", [x], (x,), None, "refused"),
            ("aten::neg", [x], (new,), 3, "refused"),
            ("aten::randn", [[2]], (new + 1,), None, "refused"),
            ("aten::neg", [new + 99], (new + 2,), None, "unknown-object"),
            ("aten::zeros", [[HUGE]], (new + 3,), None, "memory"),
            ("aten::zeros", [[[1]]], (new + 4,), None, "refused"),
            ("aten::as_strided", [x, [5], [1], 0], (new + 5,), None, "op.runtime"),
            ("aten::gelu", [x, "tanh\0"], (new + 6,), None, "refused"),
        ):
            answer, values = channel.ask([m.Call(op, list(args), {}, outs, seed, 0)], [], m.Count())
            assert isinstance(answer, m.Failure)
            assert (answer.code, values) == (code, [])
        assert torch.equal(kept.get(keep=True), VALUES)
        with pytest.raises(WorkerError):
            (kept @ kept.new_zeros(2, HUGE)).get()
        assert torch.equal((kept + 1).get(), VALUES + 1)


@pytest.mark.e2e
def test_bool_bytes_that_are_no_bools_end_the_session_and_only_that(three_nodes: Federation) -> None:
    """PyTorch leaves a bool of 2 undefined; a caller that sends one does not keep to the protocol."""
    with three_nodes.connect("c") as honest, three_nodes.connect("c") as hostile:
        kept = VALUES.send(honest)  # type: ignore[attr-defined]
        bad = torch.tensor([0, 1, 2], dtype=torch.uint8).view(torch.bool)
        with pytest.raises(MessageError, match="bool"):
            hostile._channel.ask([m.Put(1, TensorSpec("bool", (3,)))], [bad], m.Count())
        assert torch.equal(kept.get(), VALUES)


@pytest.mark.parametrize("op", ["view.dtype", "unbind.int", "as_strided", "native_batch_norm"])
def test_a_call_without_its_arguments(op: str) -> None:
    session = Session()
    x = session.put(torch.ones(4))
    assert session.fault(f"aten::{op}", x, outs=3 if "norm" in op else 1).code in ("refused", "hostile-index")
    assert "needs its argument" in session.fault("aten::view.dtype", x).text
