"""Attack: have the checker run what it is to check, or have a result be another than the session believes.

Some kernels return one number on a memory of their inputs' size, part of which nobody wrote. Whoever is believed to
hold four bytes then holds sixteen million, and ``as_strided`` reads what another session left there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses import fake_tensor

import cloister
from cloister.errors import PlanError
from cloister.tensor.geometry import Geometry
from cloister.tensor.inference import outline_of
from cloister.tensor.ops import by_name
from cloister.tensor.plan.encoding import encode
from cloister.tensor.plan.program import FORMAT, Line, Program, Rows
from cloister.worker.store import Entry
from tests.support.sessions import Session

FAR = 2**40


@pytest.fixture(autouse=True)
def no_kernel_for_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        pytest.fail(f"the kernel of {args[1]} would have run, to find its shape")

    monkeypatch.setattr(fake_tensor, "run_fallback_kernel", refuse)


# ---- Nothing runs before its guard. ----------------------------------------------------------------------------------


def alignments(steps: list[int], lengths: list[int], *, time: int = 6) -> tuple[str, list[Any]]:
    scores, targets = torch.zeros(time, 2, 5), torch.ones(2, 3, dtype=torch.int64)
    grad, before, alpha = torch.ones(2), torch.ones(2), torch.zeros(2, time, 7)
    return "_ctc_loss_backward", [grad, scores, targets, steps, lengths, before, alpha, 0, False]


HOSTILE: dict[str, tuple[str, list[Any]]] = {
    "steps that are not there": alignments([6, FAR], [3, 2]),
    "steps of nothing": alignments([6, 6], [3, 2], time=0),
    "lengths beyond the targets": alignments([6, 6], [3, FAR]),
    "negative steps": alignments([6, -FAR], [3, 2]),
    "a pool of more samples than there are": (
        "fractional_max_pool3d_backward",
        [torch.ones(0, 2, 3, 2, 2), torch.ones(1, 2, 6, 5, 4), [2, 2, 2], [3, 2, 2], torch.zeros(5, 2, 3, 2, 2).long()],
    ),
    "a margin of another reduction": (
        "multilabel_margin_loss_backward",
        [torch.ones(()), torch.ones(2, 3), torch.zeros(2, 3).long(), 2**62, torch.zeros(2, 3)],
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_refused_call_has_not_run(case: str) -> None:
    session = Session()
    op, given = HOSTILE[case]
    kept = {session.put(value): value for value in given if isinstance(value, torch.Tensor)}
    ids = iter(kept)
    failure = session.call(op, *[next(ids) if isinstance(value, torch.Tensor) else value for value in given])
    assert failure is not None
    assert failure.code == "hostile-index"
    assert all(torch.equal(session.get(id), value) for id, value in kept.items())


def test_numbers_alone_are_not_computed_with() -> None:
    """PyTorch divides at once where it is asked for a shape; this one raises a signal in the processor."""
    session = Session()
    failure = session.call("div.Tensor_mode", [-(2**63)], [-1], rounding_mode="trunc")
    assert failure is not None
    for op in ("add.Tensor", "mul.Tensor", "pow.Tensor_Tensor"):
        failure = session.call(op, [2], [3])
        assert failure is not None
        assert failure.code == "refused"


def test_nor_does_a_plan_run_while_it_is_checked() -> None:
    _, given = alignments([6, FAR], [3, 2])
    rows = [value for value in given if isinstance(value, torch.Tensor)]
    inputs = tuple(Rows("x", str(value.dtype).removeprefix("torch."), tuple(value.shape)) for value in rows)
    numbers = iter(range(len(rows)))
    args = tuple(
        next(numbers) if isinstance(value, torch.Tensor) else tuple(value) if isinstance(value, list) else value
        for value in given
    )
    scores = Line("aten::squeeze.dim", (1, 0), {}, 1)
    lines = (scores, Line("aten::_ctc_loss_backward", args, {}, 1), Line("aten::sum", (len(rows) + 1,), {}, 1))
    program = Program(FORMAT, (), (), inputs, (), lines, len(rows) + 2, (), (), ())
    with pytest.raises(PlanError):
        cloister.Plan.decode(encode(program))


# ---- What came is held against what was said. ------------------------------------------------------------------------

LOSSES: dict[str, list[Any]] = {
    "mse_loss": [1],
    "smooth_l1_loss": [2, 1.0],
    "soft_margin_loss": [1],
    "huber_loss": [1, 1.0],
    "binary_cross_entropy": [None, 2],
    "binary_cross_entropy_with_logits": [None, None, 1],
}


@pytest.mark.slow
@pytest.mark.parametrize("op", LOSSES)
def test_a_loss_has_the_memory_of_one_number(op: str) -> None:
    session = Session()
    x = session.put(torch.rand(4096))
    loss = session.made(op, x, x, *LOSSES[op])
    for size, stride in ((3, 1), (1000, 1), (2, 4000)):
        failure = session.call("as_strided", loss, [size], [stride], 0)
        assert failure is not None
        assert failure.code == "op.runtime"
    assert session.call("as_strided", loss, [1], [1], 4095) is not None
    assert session.call("as_strided_scatter", loss, loss, [1], [1], 4095) is not None


def really_held(session: Session) -> int:
    entries = [entry for entry in session.executor._store.held.values() if type(entry) is Entry]
    memories = {e.tensor.untyped_storage()._cdata: e.tensor.untyped_storage().nbytes() for e in entries}
    return sum(memories.values())


def test_the_books_hold_what_is_there() -> None:
    session = Session(memory_bytes=1 << 22, objects=1000)
    x = session.put(torch.rand(1 << 14))
    for _ in range(5):
        for op, rest in LOSSES.items():
            session.made(op, x, x, *rest)
        for window in ("kaiser_window", "blackman_window", "bartlett_window", "hann_window"):
            session.made(window, 100)
        view = session.made("view", x, [128, 128])
        session.made("transpose.int", view, 0, 1)
        session.made("channel_shuffle", session.made("view", x, [1, 4, 64, 64]), 1)  # the very memory it is given
        assert session.executor._store.nbytes == really_held(session)
    session.free(*session.executor._store.held)
    assert session.executor._store.nbytes == 0


@pytest.mark.parametrize("reduction", [-1, 3, 2**62])
def test_there_are_three_reductions(reduction: int) -> None:
    session = Session()
    x, labels = session.put(torch.rand(4, 3)), session.put(torch.zeros(4, 3).long())
    for op, args, outs in (
        ("mse_loss", [x, x, reduction], 1),
        ("multilabel_margin_loss_forward", [x, labels, reduction], 2),
        ("smooth_l1_loss_backward", [x, x, x, reduction, 1.0], 1),
        ("soft_margin_loss", [x, x, reduction], 1),
    ):
        failure = session.call(op, *args, outs=outs)
        assert failure is not None
        assert failure.code == "refused"


class Lying:
    """In place of an operation's kernel: returns something else."""

    def __init__(self, op: str, returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(by_name(f"aten::{op}"), "kernel", lambda *args, **kwargs: returned)


@pytest.mark.parametrize(
    ("op", "returned"),
    [
        ("neg", torch.zeros(5)),
        ("neg", torch.zeros(4, dtype=torch.float64)),
        ("neg", torch.zeros(2, 2)),
        ("neg", torch.zeros(4).to_sparse()),
        ("view", torch.zeros(4)),
        ("sort", (torch.zeros(4), torch.zeros(4))),
        ("sort", (torch.zeros(4), None)),
        ("unbind.int", [torch.zeros(())] * 3),
        ("nonzero", torch.zeros(9999, 1, dtype=torch.int64)),
    ],
)
def test_what_is_not_as_predicted_is_dropped(
    op: str, returned: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session()
    x = session.put(torch.arange(4.0))
    outs = {"sort": 2, "unbind.int": 4}.get(op, 1)
    args = [[2, 2]] if op == "view" else []
    Lying(op, returned, monkeypatch)
    failure = session.call(op, x, *args, outs=list(range(100, 100 + outs)))
    assert failure is not None
    assert failure.code == "refused"
    assert "was predicted" in caplog.text
    assert session.executor._store.nbytes == 16
    assert session.call("neg" if op != "neg" else "abs", 100) is not None  # it is lost


@pytest.mark.parametrize(
    "returned", [torch.zeros(3, 9)[:, :2], torch.zeros(2, 3).t(), torch.zeros(60)[10:16].view(3, 2)]
)
def test_what_is_merely_laid_out_otherwise_is_laid_out_anew(
    returned: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()
    x = session.put(torch.rand(3, 2))
    Lying("neg", returned, monkeypatch)
    made = session.made("neg", x)
    entry = session.executor._store.entry(made)
    assert Geometry.of(entry.tensor) is entry.geometry
    assert entry.geometry.storage_bytes == 24


def test_an_object_that_an_operation_resized_is_lost_with_all_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    x = session.put(torch.rand(4))
    view = session.made("view", x, [2, 2])
    monkeypatch.setattr(by_name("aten::relu_"), "kernel", lambda tensor: tensor.resize_(1000))
    failure = session.call("relu_", x, outs=0)
    assert failure is not None
    for id in (x, view):
        failure = session.call("neg", id)
        assert failure is not None
        assert failure.code == "refused"
    assert session.executor._store.nbytes == 0


def test_a_view_beyond_the_memory_is_refused_before_it_runs() -> None:
    op = by_name("aten::as_strided")
    x = torch.zeros(4)
    for arguments in ((x, [5], [1]), (x, [2], [4]), (x, [1], [1], 4)):
        with pytest.raises(RuntimeError, match="beyond the memory"):
            outline_of(op, (object(),), arguments, {}, Geometry.of)


def test_a_plan_reads_no_memory_that_nobody_wrote() -> None:
    rows = (Rows("x", "float32", (64,)),)
    lines = (
        Line("aten::mse_loss", (0, 0, 1), {}, 1),
        Line("aten::as_strided", (1, (8,), (1,), 1), {}, 1),
        Line("aten::sum", (2,), {}, 1),
    )
    with pytest.raises(PlanError, match="beyond the memory"):
        cloister.Plan.decode(encode(Program(FORMAT, (), (), rows, (), lines, 3, (), (), ())))


def test_a_plans_results_are_held_to_what_its_shapes_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Rows("x", "float32", (64,)),)
    lines = (Line("aten::mse_loss", (0, 0, 1), {}, 1), Line("aten::neg", (1,), {}, 1))
    data = encode(Program(FORMAT, (), (), rows, (), lines, 2, (), (), ()))
    seen: list[int] = []
    negated = by_name("aten::neg").kernel

    def watching(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.untyped_storage().nbytes())
        return negated(tensor)

    monkeypatch.setattr(by_name("aten::neg"), "kernel", watching)
    plan = cloister.Plan.decode(data)
    for _ in range(3):
        plan.step({}, {}, (torch.rand(5, 64),))
    assert seen == [4, 4, 4]
    monkeypatch.setattr(by_name("aten::neg"), "kernel", lambda tensor: torch.zeros(3))
    with pytest.raises(PlanError, match=r"line 1, aten::neg: .* another shape"):
        cloister.Plan.decode(data).step({}, {}, (torch.rand(5, 64),))
