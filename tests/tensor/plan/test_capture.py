"""What becomes a plan, and what is refused with the line that does it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError
from cloister.tensor.plan.capture import PlannedLoss
from tests.tensor.plan.steps import assert_same_as_plain, loss, rows, squares, step

EXAMPLE = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x))


class Counts(nn.Module):
    """Keeps state in buffers: one changed in place, one replaced, one left alone, one that is the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("scale", torch.full((3,), 2.0))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        self.last = x[0]
        return self.layer((x - self.mean) * self.scale)


def test_a_loss_of_another_model_is_refused() -> None:
    other = nn.Linear(3, 2)
    with pytest.raises(PlanError, match="no 'loss' that depends on a parameter of the model"):
        PlannedLoss(lambda model, x, y: other(x).sum()).capture(nn.Linear(3, 2), example=EXAMPLE)


@pytest.mark.slow
def test_tied_weights_stay_tied() -> None:
    plan = loss.capture(Tied(), example=(torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)))
    (parameter,) = plan.program.parameters
    assert parameter.names == ("words.weight", "head.weight")
    tokens = torch.arange(6) % 7
    assert_same_as_plain(plan, loss, Tied(), tokens, tokens.flip(0))


@pytest.mark.slow
def test_buffers_come_in_and_new_ones_go_out() -> None:
    model = Counts()
    plan = squares.capture(model, example=rows(3))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x = torch.randn(6, 3)
    outcome = step(plan, model, x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert outcome.buffers["scale"] is model.scale
    assert outcome.buffers["last"].data_ptr() != x.data_ptr()
    assert_same_as_plain(plan, squares, model, x)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_keeps_its_statistics(training: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten()).train(training)
    plan = squares.capture(model, example=rows(1, 5, 5))
    assert_same_as_plain(plan, squares, model, torch.randn(6, 1, 5, 5))


@pytest.mark.slow
def test_parameters_that_are_not_trained_have_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model.append(nn.Identity()).register_parameter("unused", nn.Parameter(torch.zeros(2)))
    plan = squares.capture(model, example=rows(3))
    outcome = assert_same_as_plain(plan, squares, model, torch.randn(5, 3))
    assert set(outcome.gradients) == {"1.weight", "1.bias"}


@pytest.mark.slow
def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = dict(model.named_parameters())
    squares.capture(model, example=rows(3))
    assert all(parameter is held[name] and parameter.grad is None for name, parameter in model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_tensors_made_on_the_way_are_constants_or_operations() -> None:
    weights = torch.tensor([1.0, 2.0])

    @cloister.plan
    def weighted(model: nn.Module, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], dtype=x.dtype) + torch.zeros(len(x), 1)
        return (model(x + places) * weights * torch.tensor([0.5, 0.25])).sum() / len(x)

    plan = weighted.capture(nn.Linear(3, 2), example=rows(3))
    assert [constant.shape for constant in plan.program.constants] == [(2,), (2,)]
    for size in (1, 2, 9):
        assert_same_as_plain(plan, weighted, nn.Linear(3, 2), torch.randn(size, 3))


def test_writing_into_the_batch_or_a_new_tensor_is_done_on_a_copy() -> None:
    @cloister.plan
    def writes(model: nn.Module, x: Tensor) -> Tensor:
        x.mul_(2)
        total = torch.tensor(1.0)
        total += model(x).sum()
        return total

    plan = writes.capture(nn.Linear(3, 2), example=rows(3))
    x, model = torch.randn(5, 3), nn.Linear(3, 2)
    before = x.clone()
    first, second = step(plan, model, x), step(plan, model, x)
    assert torch.equal(x, before)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.loss, writes(model, x.clone()))


@pytest.mark.slow
def test_shapes_that_change_in_place_become_views() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            states, _ = self.layer(x.clone().unsqueeze_(1))
            return states.squeeze(1)

    model = Recurrent()
    plan = squares.capture(model, example=rows(3))
    assert_same_as_plain(plan, squares, model, torch.randn(6, 3))


@pytest.mark.slow
def test_modes_around_the_capture_do_not_matter() -> None:
    model = nn.Linear(3, 2)
    expected = squares.capture(model, example=rows(3)).digest
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert squares.capture(model, example=(torch.zeros(4, 3),)).digest == expected


@pytest.mark.slow
def test_dead_operations_are_left_out() -> None:
    @cloister.plan
    def wasteful(model: nn.Module, x: Tensor) -> Tensor:
        torch.exp(x).sum()
        return (model(x) ** 2).mean()

    model = nn.Linear(3, 2)
    assert wasteful.capture(model, example=rows(3)).digest == squares.capture(model, example=rows(3)).digest


@pytest.mark.slow
def test_the_digest_depends_on_what_is_done_and_on_nothing_else() -> None:
    first = squares.capture(nn.Linear(3, 2), example=rows(3))
    assert squares.capture(nn.Linear(3, 2), example=rows(3, size=17)).digest == first.digest
    assert squares.capture(nn.Linear(3, 3), example=rows(3)).digest != first.digest
    assert len(first.digest) == 32
    before = torch.get_default_dtype()
    model = nn.Linear(3, 2)
    torch.set_default_dtype(torch.float64)
    try:
        assert squares.capture(model, example=(torch.zeros(4, 3, dtype=torch.float32),)).digest == first.digest
    finally:
        torch.set_default_dtype(before)


def test_the_digest_is_the_same_everywhere() -> None:
    """A change here is a change of every plan's name: charters that list one must be signed anew."""
    plan = squares.capture(nn.Linear(3, 2), example=rows(3))
    assert plan.digest.hex() == "b2f203d4f1026ca1b86fe0a9d6ccc9389cc458767f87d34f84777e0cd6ee8320"


@pytest.mark.slow
def test_the_listing_names_shapes_and_symbols() -> None:
    code = loss.capture(nn.Linear(3, 2), example=EXAMPLE).code
    assert "%2: float32[b, 3]" in code
    assert "float32[b, 2] = addmm(%1, %2, %4)" in code
    assert re.search(r"metrics: accuracy %\d+", code)
    assert "gradients:\n    weight: %" in code


# Refusals: each function, with the words that its refusal holds; the line is marked.


def reads_item(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return F.cross_entropy(model(x), y) * x.sum().item()  # here


def branches(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    if x.sum() > 0:  # here
        return F.cross_entropy(model(x), y)
    return model(x).sum()


def lists(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x).sum() * len(y.tolist())  # here


def to_numpy(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x).sum() * float(y.numpy().sum())  # here


def by_hand(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return F.cross_entropy(model(x), y, reduction="sum") * (1 / len(x))  # here


def halves(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x[: len(x) // 2]).sum()  # here


def by_size(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    scores = model(x)
    return scores.exp().sum() if len(x) > 6 else scores.sum()  # here


def picks(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x[y > 0]).sum()  # here


def rolls(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return (model(x) + torch.randn(2, generator=torch.Generator())).sum()  # here


def clamps(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    with torch.no_grad():
        model.weight.clamp_(-1, 1)  # here
    return model(x).sum()


HIDDEN = torch.zeros(2)


def remembers(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    scores = model(x)
    HIDDEN.add_(scores.detach().mean(0))  # here
    return (scores + HIDDEN).sum()


def compares(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x).sum() * torch.equal(x, x + 1)  # here


def misfits(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x @ x).sum()  # here


def makes(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    return model(x + torch.tensor([1 / len(x)])).sum()


REFUSALS: dict[Callable[..., Any], str] = {
    reads_item: "reads a value",
    branches: "reads a value",
    lists: "on tensors without values|reads a value",
    to_numpy: "on tensors without values",
    by_hand: r"given 0\.2, 0\.125 and 0\.0769",
    halves: "given 2, 4 and 6",
    by_size: "the operations differ with the batch size",
    picks: "depends on values",
    rolls: "generator",
    clamps: "writes to a parameter",
    remembers: "register_buffer",
    compares: "torch.eq",
    misfits: "on tensors without values",
    makes: "differs with the batch size",
}


@pytest.mark.slow
@pytest.mark.parametrize("function", REFUSALS, ids=lambda function: function.__name__)
def test_what_no_plan_can_do_is_refused_with_its_line(function: Callable[..., Any]) -> None:
    with pytest.raises(PlanError, match=REFUSALS[function]) as caught:
        PlannedLoss(function).capture(nn.Linear(3, 2), example=EXAMPLE)
    source, first = inspect.getsourcelines(function)
    marked = [first + at for at, line in enumerate(source) if line.rstrip().endswith("# here")]
    for number in marked:
        assert f"test_capture.py, line {number}" in str(caught.value)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (lambda scores: None, "must return"),
        (lambda scores: scores, "without dimensions"),
        (lambda scores: {"accuracy": scores.sum()}, "no 'loss'"),
        (lambda scores: scores.detach().sum(), "requires_grad"),
        (lambda scores: {"loss": scores.sum(), "rows": 4}, "'rows'"),
        (lambda scores: {"loss": scores.sum(), "clipped": scores.sum()}, "'clipped', which every training reports"),
        (lambda scores: {"loss": scores.sum(), "update_norm": scores.sum()}, "'update_norm', which every"),
    ],
)
def test_what_a_loss_function_must_return(outcome: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        cloister.plan(lambda model, x: outcome(model(x))).capture(nn.Linear(3, 2), example=rows(3))


def test_what_an_example_must_be() -> None:
    for example in ((), torch.zeros(4, 3), (torch.zeros(4, 3), torch.zeros(3)), (torch.zeros(()),)):
        with pytest.raises(PlanError, match="example"):
            squares.capture(nn.Linear(3, 2), example=example)  # type: ignore[arg-type]


def test_a_model_at_a_worker_is_not_captured() -> None:
    bob = cloister.VirtualWorker(id="bob")
    model = nn.Linear(3, 2).send(bob)  # type: ignore[operator]
    with pytest.raises(PlanError, match="is at bob"):
        squares.capture(model, example=rows(3))


def test_large_constants_belong_into_buffers() -> None:
    large = torch.zeros(1 << 19)

    @cloister.plan
    def heavy(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).sum() + large.sum()

    with pytest.raises(PlanError, match="register_buffer"):
        heavy.capture(nn.Linear(3, 2), example=rows(3))


def test_the_columns_are_called_what_the_function_calls_them() -> None:
    """An owner reads them, and can tell age from pressure where both are float32."""

    @cloister.plan
    def named(model: nn.Module, age: Tensor, pressure: Tensor) -> Tensor:
        return model(torch.stack([age, pressure], -1)).square().mean()

    @cloister.plan
    def starred(model: nn.Module, age: Tensor, *rest: Tensor) -> Tensor:
        return model(torch.stack([age, *rest], -1)).square().mean()

    def columns(function: Any, count: int) -> list[str]:
        found = function.capture(nn.Linear(count, 1), example=(torch.zeros(4),) * count)
        return [each.name for each in found.program.batch]

    assert columns(named, 2) == ["age", "pressure"]
    assert columns(starred, 3) == ["age", "rest0", "rest1"]
    assert (
        named.capture(nn.Linear(2, 1), example=(torch.zeros(4),) * 2).digest
        != starred.capture(nn.Linear(2, 1), example=(torch.zeros(4),) * 2).digest
    )
