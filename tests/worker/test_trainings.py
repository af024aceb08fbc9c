"""A caller asks for a training and means harm: a typed refusal, the model as it was, and the session goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import WorkerError
from cloister.tensor.plan.encoding import PLAN_BYTES, encode
from cloister.wire import messages
from cloister.wire import optimizers as wire
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.worker.trainings import STEPS
from tests.worker.sessions import MIB, Session

SGD = wire.SGD(0.1, 0.0, None, None, 0.0, 0.0, False)


@cloister.plan
def error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The squared error."""
    return F.mse_loss(model(x), y)


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


@cache
def planned() -> cloister.Plan:
    return error.capture(made(), example=(torch.zeros(4, 4), torch.zeros(4, 1)))


class Asking(Session):
    """A session that holds a plan, a model and a data set of ten rows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        held = made()
        self.plan = self.put(torch.frombuffer(bytearray(planned().encode()), dtype=torch.uint8))
        self.parameters = tuple(self.put(each.detach()) for each in held.parameters())
        self.buffers = tuple(self.put(each) for each in held.buffers())
        self.columns = (self.put(torch.randn(10, 4)), self.put(torch.randn(10, 1)))
        self.question = m.Train(self.plan, self.parameters, self.buffers, self.columns, SGD, 5, 2, 7, 0.0, None)

    def train(self, **changed: Any) -> m.Trained | m.Failure:
        question = msgspec.structs.replace(self.question, **changed)
        asked = m.decode(Kind.ASK, messages.encode(m.Ask([], question))).question
        answer, values = self.executor.answer(asked)
        if isinstance(answer, m.Trained):
            assert [answer.losses] == [m.TensorSpec("float64", tuple(each.shape)) for each in values]
        assert isinstance(answer, (m.Trained, m.Failure))
        messages.encode(answer)
        return answer

    def model(self) -> list[Tensor]:
        return [self.fetch(id) for id in (*self.parameters, *self.buffers)]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def respelt(**changed: Any) -> Tensor:
    """The plan with parts of its program replaced."""
    data = encode(msgspec.structs.replace(planned().program, **changed))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


Change = Callable[[Asking], dict[str, Any]]
HOSTILE: dict[str, tuple[str, Change]] = {
    "a plan that nobody sent": ("unknown-object", lambda s: {"plan": 999}),
    "a plan of floats": ("plan", lambda s: {"plan": s.put(torch.zeros(8))}),
    "a plan of no bytes": ("plan", lambda s: {"plan": s.put(torch.zeros(0, dtype=torch.uint8))}),
    "a plan of noise": ("plan", lambda s: {"plan": s.put(torch.arange(200, dtype=torch.uint8))}),
    "a plan that goes on": (
        "plan",
        lambda s: {"plan": s.call("aten::cat", [s.plan, s.put(torch.zeros(1, dtype=torch.uint8))], 0)},
    ),
    "a huge plan that takes no memory": (
        "plan",
        lambda s: {"plan": s.call("aten::expand", s.put(torch.zeros(1, dtype=torch.uint8)), [1 << 40])},
    ),
    "a plan one byte too long": ("plan", lambda s: {"plan": s.put(torch.zeros(PLAN_BYTES + 1, dtype=torch.uint8))}),
    "a plan without its lines": ("plan", lambda s: {"plan": s.put(respelt(lines=()))}),
    "a plan whose loss is no number": ("plan", lambda s: {"plan": s.put(respelt(loss=0))}),
    "a parameter that nobody sent": ("unknown-object", lambda s: {"parameters": (*s.parameters[:-1], 999)}),
    "a parameter too few": ("plan", lambda s: {"parameters": s.parameters[:-1]}),
    "a parameter too many": ("plan", lambda s: {"parameters": (*s.parameters, s.put(torch.zeros(1)))}),
    "no parameters": ("plan", lambda s: {"parameters": ()}),
    "parameters in another order": ("plan", lambda s: {"parameters": s.parameters[::-1]}),
    "a buffer too few": ("plan", lambda s: {"buffers": s.buffers[:-1]}),
    "a buffer of another type": (
        "plan",
        lambda s: {"buffers": (*s.buffers[:-1], s.put(torch.zeros(())))},
    ),
    "one object as two parameters": (
        "refused",
        lambda s: {"parameters": (*s.parameters[:-1], s.parameters[-2])},
    ),
    "a parameter as the data": ("refused", lambda s: {"columns": (s.parameters[0], s.columns[1])}),
    "a parameter as a buffer": ("refused", lambda s: {"buffers": (s.parameters[1], *s.buffers[1:])}),
    "the plan as the data": ("refused", lambda s: {"columns": (s.plan, s.columns[1])}),
    "a parameter whose elements are one": (
        "refused",
        lambda s: {"parameters": (s.call("aten::expand", s.put(torch.zeros(1)), [4, 4]), *s.parameters[1:])},
    ),
    "data that nobody sent": ("unknown-object", lambda s: {"columns": (999, s.columns[1])}),
    "a column too few": ("data-set", lambda s: {"columns": s.columns[:1]}),
    "the columns in another order": ("data-set", lambda s: {"columns": s.columns[::-1]}),
    "columns of different lengths": ("data-set", lambda s: {"columns": (s.columns[0], s.put(torch.zeros(9, 1)))}),
    "no rows": ("data-set", lambda s: {"columns": (s.put(torch.zeros(0, 4)), s.put(torch.zeros(0, 1)))}),
    "a column without rows": ("data-set", lambda s: {"columns": (s.columns[0], s.put(torch.zeros(())))}),
    "rows that take no memory": (
        "memory",
        lambda s: {
            "columns": tuple(
                s.call("aten::expand", s.put(torch.zeros(1, width)), [1 << 32, width]) for width in (4, 1)
            ),
            "batch_size": 1 << 12,
            "local_epochs": 1,
        },
    ),
    "a batch that is larger than the memory": (
        "memory",
        lambda s: {
            "columns": tuple(
                s.call("aten::expand", s.put(torch.zeros(1, width)), [1 << 40, width]) for width in (4, 1)
            ),
            "batch_size": 1 << 48,
        },
    ),
    "a lazy column that takes no memory": (
        "memory",
        lambda s: {
            "columns": (
                s.call(
                    "aten::_conj", s.call("aten::expand", s.put(torch.zeros(1, 4, dtype=torch.cfloat)), [1 << 40, 4])
                ),
                s.columns[1],
            )
        },
    ),
    "batches of nothing": ("configuration", lambda s: {"batch_size": 0}),
    "batches of one": ("plan", lambda s: {"batch_size": 1}),
    "one row at the end": ("plan", lambda s: {"batch_size": 9}),
    "no epochs": ("configuration", lambda s: {"local_epochs": 0}),
    "endless epochs": ("configuration", lambda s: {"local_epochs": 1 << 48}),
    "one step too many": ("configuration", lambda s: {"local_epochs": STEPS // 2 + 1}),
    "a mu that is no number": ("configuration", lambda s: {"proximal": math.nan}),
    "an infinite mu": ("configuration", lambda s: {"proximal": math.inf}),
    "a clip of nothing": ("configuration", lambda s: {"clip": 0.0}),
    "a clip that is no number": ("configuration", lambda s: {"clip": math.nan}),
    "a rate that is no number": (
        "configuration",
        lambda s: {"optimizer": msgspec.structs.replace(SGD, lr=math.nan)},
    ),
    "a negative rate": ("configuration", lambda s: {"optimizer": msgspec.structs.replace(SGD, lr=-1.0)}),
    "nesterov without momentum": (
        "configuration",
        lambda s: {"optimizer": msgspec.structs.replace(SGD, nesterov=True)},
    ),
    "a schedule that divides by nothing": (
        "configuration",
        lambda s: {"optimizer": msgspec.structs.replace(SGD, schedule=wire.StepDecay(0, 0.5))},
    ),
    "betas of one": (
        "configuration",
        lambda s: {"optimizer": wire.Adam(0.1, 0.0, None, None, (1.0, 1.0), 0.0, True)},
    ),
    "values that are not finite": (
        "training",
        lambda s: {"columns": (s.put(torch.full((10, 4), math.inf)), s.columns[1])},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused_by_a_typed_error_and_changes_nothing(case: str) -> None:
    code, change = HOSTILE[case]
    session = Asking()
    before = session.model()
    failure = session.train(**change(session))
    assert isinstance(failure, m.Failure)
    assert failure.code == code, failure
    assert WorkerError.from_code(failure.code) is not WorkerError
    assert len(failure.text) <= TEXT_CHARS
    assert same(session.model(), before)
    assert isinstance(session.train(), m.Trained)
    assert not same(session.model(), before)


@pytest.mark.slow
def test_each_seed_has_its_order_and_the_widest_one_too() -> None:
    losses = set()
    for seed in (0, 7, (1 << 64) - 1):
        answer = Asking().train(seed=seed)
        assert isinstance(answer, m.Trained)
        losses.add(answer.metrics["loss"])
    assert len(losses) == 3


@pytest.mark.slow
def test_a_fault_from_before_is_told_and_nothing_is_trained() -> None:
    session = Asking()
    before = session.model()
    session.executor.run([m.Call("aten::neg", [999], {}, (session.new_id(),), None, 0)], [])
    failure = session.train()
    assert isinstance(failure, m.Failure)
    assert failure.code == "unknown-object"
    assert same(session.model(), before)


def test_it_holds_no_more_than_before() -> None:
    session = Asking()
    before = session.count()
    session.train()
    assert session.count() == before


def test_what_a_training_takes_is_held_to_the_session_s_limit() -> None:
    session = Asking(memory_bytes=MIB)
    filler = session.put(torch.zeros(MIB - session.count()[1] - 2000, dtype=torch.uint8))
    failure = session.train(optimizer=wire.AdamW(0.1, 0.0, None, None, (0.9, 0.999), 1e-8, True))
    assert isinstance(failure, m.Failure)
    assert failure.code == "memory"
    session.free(filler)
    assert isinstance(session.train(), m.Trained)


def test_many_faults_fit_into_one_text() -> None:
    session = Asking()
    answer = session.train(columns=tuple(session.put(torch.zeros(10, *[1] * 14)) for _ in range(64)))
    assert isinstance(answer, m.Failure)
    assert answer.code == "data-set"
    assert len(answer.text) == TEXT_CHARS


@pytest.mark.slow
def test_conjugates_and_views_are_data_like_any_other() -> None:
    @cloister.plan
    def power(model: nn.Module, z: Tensor) -> Tensor:
        return (model(z.real) ** 2 + z.imag).mean()

    model, z = nn.Linear(4, 4), torch.randn(10, 4, dtype=torch.complex64)
    plan = power.capture(model, example=(z,))
    bob = cloister.VirtualWorker(id="bob")
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.1), "batch_size": 5}
    reached = []
    for column in (z.conj().resolve_conj().send(bob), z.send(bob).conj()):
        there = model.copy().send(bob)  # type: ignore[operator]
        bob.train(plan, model=there, data=column, **options)
        reached.append(there.get().weight)
    assert torch.equal(*reached)
