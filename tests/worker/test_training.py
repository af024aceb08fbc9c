"""Local training is the loop that everybody writes, to the last bit, and a vector at its end."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import ConfigurationError, DataSetError, PlanError, TrainingError
from cloister.testing.models import SAMPLES
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.optimizers import Optimizer, StepDecay
from cloister.worker.training import Trained, train
from tests.rounding import plain_kernels

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")

ROWS, BATCH, EPOCHS, SEED = 23, 6, 3, 11
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": cloister.SGD(lr=0.05),
    "momentum": cloister.SGD(lr=0.02, momentum=0.9, schedule=StepDecay(every=5)),
    "adam": cloister.Adam(lr=0.01, clip_norm=0.5),
}


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def made(name: str, *, seed: int = 0) -> tuple[nn.Module, Arrays]:
    torch.manual_seed(seed)
    model = SAMPLES[name].model()
    return model, Arrays(dict(zip("xy", SAMPLES[name].batch(ROWS), strict=True)))


@cache
def captured(kind: type[nn.Module]) -> cloister.Plan:
    sample = next(each for each in SAMPLES.values() if each.model is kind)
    return loss.capture(sample.model(), example=sample.batch(4))


def trained(model: nn.Module, data: Arrays, **options: Any) -> Trained:
    given = {"optimizer": OPTIMIZERS["sgd"], "batch_size": BATCH, "local_epochs": EPOCHS, "seed": SEED, **options}
    plan = loss.capture(model, example=next(data.epoch(4, seed=0, step=0)))
    return train(plan, data, parameters=dict(model.named_parameters()), buffers=dict(model.named_buffers()), **given)


def plainly(
    model: nn.Module, data: Arrays, declared: Optimizer, *, mu: float = 0.0
) -> list[tuple[int, dict[str, Tensor]]]:
    """The loop as everybody writes it; rows, loss and accuracy of each step."""
    optimizer = declared.make(list(model.parameters()))
    schedule = None if declared.schedule is None else declared.schedule.over(optimizer)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    seen = []
    for _ in range(EPOCHS):
        for x, y in data.epoch(BATCH, seed=SEED, step=len(seen)):
            optimizer.zero_grad()
            found: Any = loss(model, x, y)
            found["loss"].backward()
            for parameter, first in zip(model.parameters(), start, strict=True):
                assert parameter.grad is not None
                if mu:
                    parameter.grad += mu * (parameter.detach() - first)
            if declared.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), declared.clip_norm)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            seen.append((len(x), {name: value.detach() for name, value in found.items()}))
    return seen


def change(after: nn.Module, before: nn.Module) -> Tensor:
    """The delta, written out: tensors by name, end to end."""
    old = deltas.floats_of(before)
    return torch.cat([(new - old[name]).detach().flatten() for name, new in sorted(deltas.floats_of(after).items())])


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_it_is_the_plain_loop_to_the_last_bit(name: str, optimizer: str, mu: float) -> None:
    model, data = made(name)
    there = copy.deepcopy(model)
    with plain_kernels():
        seen = plainly(there, data, OPTIMIZERS[optimizer], mu=mu)
        got = trained(model, data, optimizer=OPTIMIZERS[optimizer], proximal=mu)
    assert torch.equal(got.delta, change(there, model))
    assert got.losses == tuple(float(found["loss"]) for _, found in seen)
    assert len(got.losses) == EPOCHS * 4
    assert [rows for rows, _ in seen[:4]] == [6, 6, 6, 5]
    assert got.examples == ROWS
    for metric in ("loss", "accuracy"):
        expected = math.fsum(rows * float(found[metric]) for rows, found in seen) / (EPOCHS * ROWS)
        assert got.metrics[metric] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_the_proximal_term_is_that_of_the_loss() -> None:
    """Li et al. 2020, equation 2: mu / 2 times the squared distance, differentiated by PyTorch."""
    model, data = made("mlp")
    there = copy.deepcopy(model)
    start = {name: each.detach().clone() for name, each in there.named_parameters()}
    optimizer = torch.optim.SGD(there.parameters(), 0.05)
    step = 0
    for _ in range(EPOCHS):
        for x, y in data.epoch(BATCH, seed=SEED, step=step):
            optimizer.zero_grad()
            distance = sum(((each - start[name]) ** 2).sum() for name, each in there.named_parameters())
            (F.cross_entropy(there(x), y) + 0.7 / 2 * distance).backward()
            optimizer.step()
            step += 1
    got = trained(model, data, proximal=0.7)
    torch.testing.assert_close(got.delta, change(there, model), rtol=1e-5, atol=1e-6)
    assert deltas.norm(got.delta) < deltas.norm(trained(model, data).delta)


@pytest.mark.slow
def test_buffers_are_state() -> None:
    """Running statistics are part of the delta; what counts in integers comes beside it."""
    model, data = made("resnet")
    there = copy.deepcopy(model)
    with plain_kernels():
        plainly(there, data, OPTIMIZERS["sgd"])
        got = trained(model, data)
    assert torch.equal(got.delta, change(there, model))
    counters = {name: each for name, each in there.named_buffers() if not each.is_floating_point()}
    assert counters
    assert set(got.others) == set(counters)
    assert all(torch.equal(got.others[name], counters[name]) for name in counters)


@pytest.mark.slow
def test_what_is_given_stays_as_it_is() -> None:
    model, data = made("resnet")
    before = copy.deepcopy(model.state_dict())
    trained(model, data)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


@pytest.mark.slow
def test_the_seed_decides() -> None:
    model, data = made("mlp")
    assert torch.equal(trained(model, data).delta, trained(model, data).delta)
    assert not torch.equal(trained(model, data).delta, trained(model, data, seed=SEED + 1).delta)


@pytest.mark.slow
def test_the_delta_is_clipped() -> None:
    model, data = made("mlp")
    free = trained(model, data)
    whole = free.delta
    limit = deltas.norm(whole) / 3
    clipped = trained(model, data, clip=limit)
    assert deltas.norm(clipped.delta) <= limit
    torch.testing.assert_close(clipped.delta, whole / 3, rtol=1e-5, atol=1e-8)
    loose = trained(model, data, clip=4 * limit)
    assert torch.equal(loose.delta, whole)
    assert [each.metrics["clipped"] for each in (free, clipped, loose)] == [0.0, 1.0, 0.0]
    assert {each.metrics["update_norm"] for each in (free, clipped, loose)} == {deltas.norm(whole)}


@pytest.mark.slow
def test_buffers_are_no_part_of_what_is_clipped() -> None:
    model, data = made("resnet")
    free = trained(model, data)
    assert free.norms.buffers > 4 * free.norms.parameters
    loose = trained(model, data, clip=2 * free.norms.parameters)
    assert torch.equal(loose.delta, free.delta)
    bounded = trained(model, data, clip=2 * free.norms.parameters, clip_buffers=free.norms.buffers / 2)
    assert (bounded.metrics["clipped"], bounded.norms.parameters) == (0.0, free.norms.parameters)
    assert bounded.norms.buffers <= free.norms.buffers / 2


@pytest.mark.slow
def test_what_is_frozen_does_not_move() -> None:
    """It is no part of a delta, or stands there with zeros where a layout wants it."""
    model, data = made("mlp")
    next(model.parameters()).requires_grad_(False)
    options: dict[str, Any] = {"optimizer": cloister.SGD(lr=0.05, weight_decay=0.1), "local_epochs": 1}
    got = trained(model, data, **options)
    learned = deltas.layout_of({name: each for name, each in model.named_parameters() if each.requires_grad})
    layout = deltas.layout_of(deltas.floats_of(model))
    assert len(got.delta) == learned.length < layout.length
    whole = trained(model, data, layout=layout, **options).delta
    parts = {name: whole[start:stop] for name, _, start, stop in layout.places}
    moved = {name: bool(part.any()) for name, part in parts.items()}
    assert moved == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert torch.equal(torch.cat([parts[place.name] for place in learned.places]), got.delta)


@pytest.mark.slow
def test_a_misfit_is_found_before_the_first_step() -> None:
    model, data = made("mlp")
    plan = captured(type(model))

    class Unread(Arrays):
        def epoch(self, *args: Any, **options: Any) -> Any:
            raise AssertionError("a step was begun")

    given: Any = {"optimizer": OPTIMIZERS["sgd"], "batch_size": 4, "local_epochs": 1, "seed": 0, "buffers": {}}
    wrong = Unread({"scans": torch.zeros(5, 20, dtype=torch.int64), "labels": torch.zeros(5, 2)})
    with pytest.raises(DataSetError, match=r"'scans' holds int64.*'labels' holds float32"):
        train(plan, wrong, parameters=dict(model.named_parameters()), **given)
    parameters = dict(model.named_parameters())
    del parameters["layers.0.bias"]
    with pytest.raises(PlanError, match=r"layers\.0\.bias"):
        train(plan, data, parameters=parameters, **given)
    with pytest.raises(ConfigurationError, match="no parameters"):
        train(plan, data, parameters={}, **given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size"),
        ({"local_epochs": 0}, "local_epochs"),
        ({"proximal": -1.0}, "proximal"),
        ({"proximal": math.nan}, "proximal"),
        ({"seed": -1}, "seed"),
        ({"clip": 0.0}, "clip is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    model, data = made("mlp")
    with pytest.raises(ConfigurationError, match=message):
        trained(model, data, **options)


@pytest.mark.slow
def test_a_last_batch_of_one_row_is_refused_where_batchnorm_is_trained() -> None:
    """Before the first step, where PyTorch would find out at the end of the first epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    seen: list[int] = []

    class Watched(Arrays):
        def epoch(self, *args: Any, **options: Any) -> Any:
            seen.append(1)
            return super().epoch(*args, **options)

    watched = Watched({"x": torch.randn(13, 4), "y": torch.randint(3, (13,))})
    plan = loss.capture(model, example=(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long)))
    named: Any = {"parameters": dict(model.named_parameters()), "buffers": dict(model.named_buffers())}
    given: Any = {"optimizer": OPTIMIZERS["sgd"], "local_epochs": 1, "seed": 0, **named}
    with pytest.raises(PlanError, match=r"13 rows in batches of 6 leave one row.*another batch size.*BatchNorm"):
        train(plan, watched, batch_size=6, **given)
    assert not seen
    assert train(plan, watched, batch_size=5, **given).examples == 13
    # An image has many places for each channel, and PyTorch takes one alone.
    model, data = made("resnet")
    assert len(trained(model, data, batch_size=ROWS - 1, local_epochs=1).losses) == 2


@pytest.mark.slow
def test_the_loss_of_every_step_is_kept_in_its_place() -> None:
    """More steps than are kept as tensors of their own."""
    rows, weight = 1100, torch.tensor([[2.0]])

    @cloister.plan
    def product(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).sum()

    model = nn.Linear(1, 1, bias=False)
    plan = product.capture(model, example=(torch.zeros(4, 1),))
    data = Arrays({"x": torch.arange(float(rows)).reshape(-1, 1)})
    given: Any = {"parameters": {"weight": weight}, "buffers": {}, "optimizer": cloister.SGD(lr=0)}
    got = train(plan, data, batch_size=1, local_epochs=2, seed=3, **given)
    expected = [2 * x.item() for step in (0, rows) for (x,) in data.epoch(1, seed=3, step=step)]
    assert got.losses == tuple(expected)
    assert got.metrics["loss"] == rows - 1


@pytest.mark.slow
def test_a_training_that_diverges_says_so() -> None:
    model, data = made("mlp")
    with pytest.raises(TrainingError, match="not finite"):
        trained(model, data, optimizer=cloister.SGD(lr=1e30))


def test_a_buffer_that_stays_at_home_is_finite_too() -> None:
    """The variance of such data is beyond float32; in train mode a BatchNorm goes on with it, and keeps it for good."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = Arrays({"x": torch.randn(ROWS, 3) * 1e25, "y": torch.arange(ROWS) % 2})
    layout = deltas.layout_of(dict(model.named_parameters()))
    assert trained(model, Arrays({"x": torch.randn(ROWS, 3), "y": torch.arange(ROWS) % 2}), layout=layout).others
    with pytest.raises(TrainingError, match=r"values in '0\.running_var' that are not finite"):
        trained(model, data, layout=layout)
