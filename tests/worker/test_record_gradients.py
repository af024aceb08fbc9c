"""A record's gradient is the one that it has alone, and nothing of another record is in it: not a bit, and no error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError
from cloister.worker.plans import Plan, PlannedLoss, plan
from cloister.worker.record_gradients import RecordGradients
from tests.plans.samples import HONEST, Sample
from tests.tensor.plan.steps import loss

RECORDS = 13
TOGETHER = [
    *"mlp lenet lstm transformer counts mse l1 huber bce norms hinge sum gru embedding".split(),
    *("smoothed labels", "weights by class", "by index", "by gather", "best score", "group norm", "layer norm"),
    *("up and down", "lstm on series", "fixed layer"),
]
ONE_BY_ONE = ["dropout", "encoder"]


def made(planned: Plan, model: nn.Module, *, at_once: int = RECORDS, memory_bytes: int = 1 << 30) -> RecordGradients:
    pairs = zip(planned.program.parameters, planned.program.gradients, strict=True)
    return RecordGradients(
        planned,
        parameters=dict(model.named_parameters()),
        buffers=dict(model.named_buffers()),
        names=[each.names[0] for each, gradient in pairs if gradient is not None],
        at_once=at_once,
        memory_bytes=memory_bytes,
    )


def ready(sample: Sample) -> tuple[RecordGradients, nn.Module]:
    torch.manual_seed(3)
    model = sample.model()
    return made(plan(sample.step).capture(model, example=sample.batch), model), model


def honest(sample: Sample, generator: torch.Generator) -> list[Tensor]:
    """A batch of records as such a plan takes them."""
    shapes = [(RECORDS, *each.shape[1:]) for each in sample.batch]
    return [
        torch.randn(shape, generator=generator)
        if each.is_floating_point()
        else torch.randint(3, shape, generator=generator)
        for each, shape in zip(sample.batch, shapes, strict=True)
    ]


def hostile(sample: Sample, generator: torch.Generator) -> list[Tensor]:
    """The same with values that no step is made for, in many of them."""
    batch = honest(sample, generator)
    for each in batch:
        wrong = [torch.nan, torch.inf, 1e30, 0.0] if each.is_floating_point() else [2**40, -1]
        which = torch.randint(2 * len(wrong), (RECORDS,), generator=generator)
        for at, value in enumerate(wrong):
            each[which == at] = value
    return batch


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("name", [*TOGETHER, *ONE_BY_ONE])
def test_a_record_has_the_same_bits_whatever_the_others_are(name: str) -> None:
    gradients, _ = ready(HONEST[name])
    assert bool(gradients.replayed) is (name in ONE_BY_ONE)
    generator = torch.Generator().manual_seed(5)
    batch = honest(HONEST[name], generator)
    found = gradients.of(batch, seed=1, first=0)
    assert found.isfinite().all()
    failed = 0
    for at in range(RECORDS):
        others = hostile(HONEST[name], generator)
        for one, given in zip(others, batch, strict=True):
            one[at] = given[at]
        again = gradients.of(others, seed=1, first=0)
        assert torch.equal(again[at], found[at])
        failed += int((~again.isfinite()).any(1).sum())
    assert failed or name in ("l1",)


@cloister.plan
def noisy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Nothing random comes of it, but it cannot be vectorised."""
    return F.cross_entropy(model(x), y) + 0 * torch.rand(3).sum()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("name", ["mlp", "lenet", "lstm", "transformer", "group norm"])
def test_together_they_are_as_one_by_one(name: str) -> None:
    torch.manual_seed(3)
    model = HONEST[name].model().double()
    batch = honest(HONEST[name], torch.Generator().manual_seed(5))
    batch = [each.double() if each.is_floating_point() else each for each in batch]
    together, alone = (made(each.capture(model, example=[t[:4] for t in batch]), model) for each in (loss, noisy))
    assert (together.replayed, "draws random numbers" in alone.replayed) == ("", True)
    found = together.of(batch, seed=1, first=0)
    expected = alone.of(batch, seed=1, first=0)
    assert found.shape == expected.shape == (RECORDS, sum(each.numel() for each in model.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@cache
def captured(planned: PlannedLoss, *layers: Callable[[], nn.Module]) -> Plan:
    model = nn.Sequential(*(layer() for layer in layers), nn.Linear(6, 3))
    return planned.capture(model, example=(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)))


def linear(planned: PlannedLoss = loss, *layers: Callable[[], nn.Module]) -> tuple[RecordGradients, nn.Module]:
    """A linear layer behind others that have nothing to train."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer() for layer in layers), nn.Linear(6, 3))
    return made(captured(planned, *layers), model), model


def dropout() -> nn.Module:
    return nn.Dropout(0.5)


def records() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(RECORDS, 6, generator=generator), torch.arange(RECORDS) % 3]


def test_names_decide_the_order_and_each_row_is_a_records_gradient() -> None:
    _, model = linear()
    x, y = records()
    gradients = RecordGradients(
        captured(loss),
        parameters=dict(model.named_parameters()),
        buffers={},
        names=["0.weight", "0.bias"],
        at_once=4,
        memory_bytes=1 << 20,
    )
    found = gradients.of([x, y], seed=0, first=0)
    for at in range(RECORDS):
        expected = torch.autograd.grad(F.cross_entropy(model(x[at]), y[at]), list(model.parameters()))
        torch.testing.assert_close(found[at], torch.cat([each.flatten() for each in expected]))


@pytest.mark.parametrize("label", [3, 2**40, -1])
@pytest.mark.parametrize("planned", [loss, noisy])
def test_a_record_that_cannot_be_computed_is_no_number_and_no_error(planned: PlannedLoss, label: int) -> None:
    gradients, _ = linear(planned)
    x, y = records()
    found = gradients.of([x, y], seed=0, first=0)
    y[5], y[9] = label, -7
    again = gradients.of([x, y], seed=0, first=0)
    bad = torch.tensor([at in (5, 9) for at in range(RECORDS)])
    assert again[bad].isnan().all()
    assert torch.equal(again[~bad], found[~bad])


@pytest.mark.parametrize("bad", [0, 1, 7])
def test_indices_out_of_range_take_no_second_run(bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes would tell of one record."""
    gradients, _ = linear()
    x, y = records()
    y[:bad] = 99
    runs: list[int] = []
    real = gradients._together.run
    monkeypatch.setattr(gradients._together, "run", lambda *given: (runs.append(1), real(*given))[1])
    found = gradients.of([x, y], seed=0, first=0)
    assert found[:bad].isnan().all()
    assert found[bad:].isfinite().all()
    assert len(runs) == 1


def test_what_fails_otherwise_is_found_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients, _ = linear()
    x, y = records()
    whole = gradients.of([x, y], seed=0, first=0)
    runs: list[int] = []
    real = gradients._together.run

    def run(parameters: Any, buffers: Any, batch: Any) -> Any:
        runs.append(1)
        if (batch[0] == 777).any():
            raise PlanError("it cannot be computed")
        return real(parameters, buffers, batch)

    monkeypatch.setattr(gradients._together, "run", run)
    x[5] = 777
    found = gradients.of([x, y], seed=0, first=0)
    assert found[5].isnan().all()
    rest = torch.arange(RECORDS) != 5
    assert torch.equal(found[rest], whole[rest])
    assert len(runs) <= 1 + 2 * (RECORDS - 1).bit_length()


def test_what_is_random_is_of_the_seed_and_the_records_number() -> None:
    gradients, _ = linear(loss, dropout)
    x, y = (each[:1].expand_as(each) for each in records())
    found = gradients.of([x, y], seed=7, first=100)
    assert len({tuple(row) for row in found.tolist()}) > 5  # of one record that was given many times
    assert torch.equal(gradients.of([x[:4], y[:4]], seed=7, first=103), found[3:7])
    assert not torch.equal(gradients.of([x, y], seed=8, first=100), found)


def test_what_is_given_stays_as_it_is_and_changes_of_it_count() -> None:
    gradients, model = linear()
    batch = records()
    before = [each.clone() for each in (*batch, *model.parameters())]
    found = gradients.of(batch, seed=0, first=0)
    assert all(map(torch.equal, before, (*batch, *model.parameters())))
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert not torch.equal(gradients.of(batch, seed=0, first=0), found)


def test_memory_bounds_how_many_are_computed_at_a_time() -> None:
    _, model = linear()
    few = made(captured(loss), model, at_once=1000, memory_bytes=10_000)
    assert 1 < few.at_once < 20
    assert made(captured(loss), model, at_once=3).at_once == 3
    with pytest.raises(PlanError, match=r"one record takes [\d,]+ bytes of memory, more than 800; allow more"):
        made(captured(loss), model, memory_bytes=800)


@pytest.mark.slow
def test_batch_norm_is_refused_by_name_and_says_what_to_take() -> None:
    for name, layer in (("batch norm", "1"), ("resnet", "stem.1")):
        with pytest.raises(PlanError, match=f"the layer '{layer}' writes the buffer .*running_mean.* GroupNorm"):
            ready(HONEST[name])


def several() -> nn.Module:
    return nn.BatchNorm1d(6, affine=False, track_running_stats=False)


def test_a_plan_that_needs_several_rows_is_refused() -> None:
    with pytest.raises(PlanError, match=r"cannot be run on one row \(.*more than one row.* mean over rows"):
        linear(loss, several)
