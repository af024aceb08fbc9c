"""A training in one message: the steps are those of a training here, to the last bit, and the model stays there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import (
    ConfigurationError,
    DataSetError,
    NotColocatedError,
    PlanError,
    PointerSpentError,
    TrainingError,
    WorkerError,
)
from cloister.tensor.plan.program import CLIPPED, UPDATE_NORM
from cloister.tensor.training import TrainingReport
from cloister.tensor.worker import Worker
from cloister.wire.layout import regions_of
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.optimizers import Optimizer, StepDecay
from cloister.worker.training import Trained
from cloister.worker.training import train as train_here
from tests.behaviours.conftest import objs

ROWS = 23


@pytest.fixture(autouse=True)
def _as_many_threads() -> Iterator[None]:
    """As the worker processes have: sums over several threads are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def made() -> nn.Module:
    """Dropout wants seeds; BatchNorm has buffers, one of them an integer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def rows() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(ROWS, 5), torch.randint(3, (ROWS,))


@cache
def planned() -> cloister.Plan:
    return loss.capture(made(), example=(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)))


def here(**options: Any) -> tuple[nn.Module, Trained]:
    """The same training here; the model that it begins with."""
    model = made()
    given = {"batch_size": 6, "local_epochs": 3, "seed": 7, **options}
    named: Any = {"parameters": dict(model.named_parameters()), "buffers": dict(model.named_buffers())}
    return model, train_here(planned(), Arrays(dict(zip("xy", rows(), strict=True))), **named, **given)


def there(worker: Worker, model: nn.Module, **options: Any) -> TrainingReport:
    x, y = rows()
    given = {"batch_size": 6, "local_epochs": 3, "seed": 7, **options}
    return worker.train(planned(), model=model, data=(x.send(worker), y.send(worker)), **given)


def replayed(declared: Optimizer) -> dict[str, Tensor]:
    """The same steps, written out."""
    model, data = made(), Arrays(dict(zip("xy", rows(), strict=True)))
    update, step = declared.over(dict(model.named_parameters())), 0
    for _ in range(3):
        for batch in data.epoch(6, seed=7, step=step):
            outcome = planned().step(
                dict(model.named_parameters()), dict(model.named_buffers()), batch, seed=7, step=step
            )
            update.step(outcome.gradients)
            model.load_state_dict(outcome.buffers, strict=False)
            step += 1
    return model.state_dict()


OPTIMIZERS: dict[str, Optimizer] = {
    "momentum": cloister.SGD(lr=0.1, momentum=0.9, schedule=StepDecay(every=5)),
    "adam": cloister.AdamW(lr=0.01, clip_norm=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_the_training_here_to_the_last_bit(b: Worker, optimizer: str) -> None:
    declared = OPTIMIZERS[optimizer]
    model = copy.deepcopy(made()).send(b)
    held = objs(b)
    report = there(b, model, optimizer=declared)
    assert objs(b) == held
    _, expected = here(optimizer=declared)
    assert report.losses == expected.losses
    assert len(report.losses) == 12
    told = {name: each for name, each in expected.metrics.items() if name not in (CLIPPED, UPDATE_NORM)}
    assert report.metrics == told
    assert report.loss == expected.metrics["loss"]
    assert report.examples == ROWS
    reached = model.get().state_dict()
    assert all(torch.equal(reached[name], each) for name, each in replayed(declared).items())
    assert int(reached["1.num_batches_tracked"]) == 12


@pytest.mark.slow
def test_it_goes_on_from_where_it_was_and_operations_see_it(b: Worker) -> None:
    model = made().send(b)
    first = there(b, model, optimizer=cloister.SGD(lr=0.05))
    second = there(b, model, optimizer=cloister.SGD(lr=0.05), seed=8)
    assert second.loss < first.loss
    x, y = rows()
    seen = F.cross_entropy(model.eval()(x.send(b)), y.send(b))
    assert seen.item() < second.loss


@pytest.mark.slow
def test_fedprox_and_a_clipped_change(b: Worker) -> None:
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.1), "proximal": 0.5, "clip": 0.25}
    model = made().send(b)
    there(b, model, **options)
    start, expected = here(**options)
    floats = deltas.floats_of(start)
    layout = deltas.layout_of(floats)
    began = deltas.flatten(floats, layout=layout)
    reached = deltas.flatten(deltas.floats_of(model.get()), layout=layout)
    assert torch.equal(reached, began + expected.delta)
    regions = regions_of(layout, buffers=dict(start.named_buffers()))
    assert deltas.norm(reached - began, regions=regions.parameters) == pytest.approx(0.25, rel=1e-4)
    assert deltas.norm(reached - began, regions=regions.buffers) > 0.25  # what is no parameter is not clipped by it


@pytest.mark.slow
def test_tied_weights_and_frozen_ones(b: Worker) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.first.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).tanh())

    @cloister.plan
    def error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(model(x), y)

    model, x = Tied(), torch.randn(8, 4)
    before = copy.deepcopy(model)
    plan = error.capture(model, example=(x, x))
    p = x.send(b)
    b.train(plan, model=model.send(b), data=(p, p), optimizer=cloister.SGD(lr=0.1), batch_size=4)
    model.get()
    assert model.first.weight is model.second.weight
    assert not torch.equal(model.first.weight, before.first.weight)
    assert torch.equal(model.first.bias, before.first.bias)


@pytest.mark.slow
def test_a_graph_from_before_is_stale(b: Worker) -> None:
    model = made().send(b)
    x, y = rows()
    before = F.cross_entropy(model(x.send(b)), y.send(b))
    there(b, model, optimizer=cloister.SGD(lr=0.1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        before.backward()


FAILURES: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "diverged": (TrainingError, "not finite", {"optimizer": cloister.SGD(lr=1e30)}),
    "one row left": (PlanError, "leave one row .* BatchNorm cannot be trained", {"batch_size": 11}),
    "batches of one row": (PlanError, "BatchNorm cannot be trained", {"batch_size": 1}),
    "more steps than are taken": (ConfigurationError, "one training has", {"local_epochs": 1 << 40}),
    "a norm that is none": (ConfigurationError, "clip is 0", {"clip": 0.0}),
    "a negative mu": (ConfigurationError, "proximal is -1", {"proximal": -1.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_typed_and_leaves_everything_as_it_was(b: Worker, case: str) -> None:
    kind, message, options = FAILURES[case]
    model = made().send(b)
    with pytest.raises(kind, match=message) as caught:
        there(b, model, **{"optimizer": cloister.SGD(lr=0.1), **options})
    assert isinstance(caught.value, WorkerError)
    there(b, copied := model.copy(), optimizer=cloister.SGD(lr=0.1))
    del copied
    after = model.get().state_dict()
    assert all(torch.equal(after[name], each) for name, each in made().state_dict().items())


def test_data_that_does_not_fit_is_named(b: Worker) -> None:
    model, (x, y) = made().send(b), rows()
    p, q = x.send(b), y.send(b)
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.1), "batch_size": 6}
    wrong: list[tuple[Any, str]] = [
        ((p.long(), q), r"'data\[0\]' holds int64"),
        ((p, q.unsqueeze(1)), r"row of column 'data\[1\]'"),
        ((p[:5], q), "different numbers of rows"),
        ((p[:0], q[:0]), "no rows"),
        (p, "1 columns"),
        ((p.sum(), q), "no rows to train on"),
    ]
    for data, message in wrong:
        with pytest.raises(DataSetError, match=message):
            b.train(planned(), model=model, data=data, **options)
    model[0] = nn.Linear(5, 7).send(b)
    with pytest.raises(PlanError, match=r"'0\.weight'.*8, 5.*7, 5"):
        b.train(planned(), model=model, data=(p, q), **options)


def test_what_is_wrong_here_never_leaves(b: Worker) -> None:
    x, y = rows()
    model = made()
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.1), "batch_size": 6}
    with pytest.raises(NotColocatedError, match=r"0\.weight is here"):
        b.train(planned(), model=model, data=(x.send(b), y.send(b)), **options)
    model.send(b)
    with pytest.raises(NotColocatedError, match=r"data\[0\] is here"):
        b.train(planned(), model=model, data=(x, y.send(b)), **options)
    p, q = x.send(b), y.send(b)
    with pytest.raises(PlanError, match=r"parameter '4\.weight'"):
        b.train(planned(), model=model[:4], data=(p, q), **options)
    wrong: dict[str, Any] = {"batch_size": 0, "local_epochs": 10**18, "seed": -1, "proximal": float("nan"), "clip": "1"}
    wrong["optimizer"] = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    for name, value in wrong.items():
        with pytest.raises(ConfigurationError, match=name):
            b.train(planned(), model=model, data=(p, q), **{**options, name: value})
    with pytest.raises(ConfigurationError, match="capture"):
        b.train(loss, model=model, data=(p, q), **options)  # type: ignore[arg-type]
    p.get()
    with pytest.raises(PointerSpentError):
        b.train(planned(), model=model, data=(p, q), **options)
