"""Running a plan: seeds, state, what is refused at the door and what fails on values."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import cloister
from cloister.errors import PlanError
from cloister.tensor.ops import of_overload
from cloister.tensor.plan import encoding
from cloister.tensor.plan.program import Program
from cloister.tensor.plan.seeds import seed_of
from cloister.worker.seeding import seeded
from tests.rounding import plain_kernels
from tests.tensor.plan.steps import assert_same_as_plain, loss, rows, squares, step

# A warning of PyTorch's at switching a CPU library off.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")


class SeededAlike(TorchDispatchMode):
    """Plain PyTorch, drawing as a plan draws: the n-th random operation has the seed of the plan's n-th random line."""

    def __init__(self, program: Program, *, seed: int, step: int) -> None:
        super().__init__()
        random = [at for at, line in enumerate(program.lines) if line.op in RANDOM]
        self.seeds = iter([seed_of(seed, step=step, line=at) for at in random])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and func._schema.name in {name.partition(".")[0] for name in RANDOM}:
            assert of_overload(func).random
            with seeded(next(self.seeds), torch.device("cpu")):
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


RANDOM = {"aten::bernoulli_.float", "aten::randn", "aten::native_dropout"}


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x + 0.1 * torch.randn(len(x), 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [Noisy, lambda: nn.TransformerEncoderLayer(3, 1, 8, dropout=0.3, batch_first=True)],
    ids=["dropout and noise", "attention"],
)
def test_plain_pytorch_with_the_same_seeds_draws_the_same(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    shape = (3,) if isinstance(model, Noisy) else (2, 3)
    plan = squares.capture(model, example=rows(*shape))
    x = torch.randn(5, *shape)
    with plain_kernels(), SeededAlike(plan.program, seed=11, step=4) as seeds:
        expected: Any = squares(model, x)
        expected.backward()
    assert next(seeds.seeds, None) is None
    outcome = step(plan, model, x, seed=11, step=4)
    assert torch.equal(outcome.loss, expected)
    for name, parameter in model.named_parameters():
        assert torch.equal(outcome.gradients[name], parameter.grad), name


@pytest.mark.slow
def test_seed_and_step_decide_all_that_is_random() -> None:
    torch.manual_seed(1)
    model, x = Noisy(), torch.randn(8, 3)
    plan = squares.capture(model, example=rows(3))
    first = step(plan, model, x, seed=5, step=2).loss
    before = torch.get_rng_state()
    torch.manual_seed(99)
    again = cloister.Plan.decode(plan.encode())
    torch.set_rng_state(before)
    assert torch.equal(step(again, model, x, seed=5, step=2).loss, first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(step(plan, model, x, seed=5, step=3).loss, first)
    assert not torch.equal(step(plan, model, x, seed=6, step=2).loss, first)


def test_the_rule_for_seeds_stands() -> None:
    """docs/adr/0009 spells it out; another rule would change what a seed reproduces."""
    assert seed_of(0, step=0, line=0) == -8607296846547807051
    assert seed_of(-1, step=7, line=3) == seed_of((1 << 64) - 1, step=7, line=3) == 9192397017228638052


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_one_plan_serves_batches_of_every_size(size: int) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.GroupNorm(3, 3), nn.Flatten(), nn.Linear(12, 4))
    plan = loss.capture(model, example=(torch.zeros(4, 1, 6, 6), torch.zeros(4, dtype=torch.long)))
    assert_same_as_plain(plan, loss, model, torch.randn(size, 1, 6, 6), torch.randint(4, (size,)))


@pytest.mark.slow
def test_what_a_step_is_given_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    plan = squares.capture(model, example=rows(3))
    given = [*model.parameters(), *model.buffers(), torch.randn(4, 3)]
    before = [tensor.clone() for tensor in given]
    outcome = step(plan, model, given[-1])
    for tensor in (*outcome.gradients.values(), outcome.loss):
        assert not tensor.requires_grad
        tensor.mul_(0)
    assert all(map(torch.equal, given, before))


@pytest.mark.slow
def test_a_batch_may_lie_anyhow_in_memory() -> None:
    model, wide = nn.Linear(3, 2), torch.randn(6, 5, 2)
    plan = squares.capture(model, example=rows(3))
    x = wide[:, 1:4, 0]
    assert torch.equal(step(plan, model, x).loss, step(plan, model, x.contiguous()).loss)


@pytest.mark.slow
def test_a_plan_reads_nothing_around_its_batch() -> None:
    """``as_strided`` counts from where the storage begins, which is the data set's and not the batch's."""

    @cloister.plan
    def around(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.as_strided((1, 3), (3, 1), 0)).sum()

    model, data = nn.Linear(3, 2), torch.arange(24.0).reshape(8, 3)
    plan = around.capture(model, example=rows(3))
    batch = data[4:6]
    assert torch.equal(step(plan, model, batch).loss, step(plan, model, batch.clone()).loss)

    @cloister.plan
    def beyond(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.as_strided((len(x) + 1, 3), (3, 1))).sum()

    with pytest.raises(PlanError, match="as_strided"):
        beyond.capture(model, example=rows(3))


@pytest.mark.slow
def test_intermediate_values_are_dropped_when_the_step_is_over() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    plan = squares.capture(model, example=rows(3))
    step(plan, model, x)
    replay = plan.replay(4, torch.device("cpu"))
    assert all(value is None or not isinstance(value, Tensor) for value in replay._prepared.blank)
    last = weakref.ref(step(plan, model, x).loss)
    gc.collect()
    assert last() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((), "takes batches of 1 tensors"),
        ((torch.zeros(4, 3), torch.zeros(4, 3)), "takes batches of 1 tensors"),
        ((torch.zeros(4, 2),), r"\[4, 2\].*takes \[4, 3\]"),
        ((torch.zeros(4, 3, dtype=torch.float64),), "float64"),
        ((torch.zeros(()),), "tensor 0 of the batch"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: tuple[Tensor, ...], words: str) -> None:
    model = nn.Linear(3, 2)
    plan = squares.capture(model, example=rows(3))
    with pytest.raises(PlanError, match=words):
        step(plan, model, *batch)


def test_a_parameter_that_is_missing_or_misfits_is_named() -> None:
    plan = squares.capture(nn.Linear(3, 2), example=rows(3))
    with pytest.raises(PlanError, match="'bias'"):
        plan.step({"weight": torch.zeros(2, 3)}, {}, rows(3))
    with pytest.raises(PlanError, match=r"bias is \[3\]"):
        plan.step({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, {}, rows(3))


@pytest.mark.slow
def test_a_label_out_of_range_is_a_plan_error_without_its_value() -> None:
    plan = loss.capture(nn.Linear(3, 2), example=(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)))
    with pytest.raises(PlanError, match="IndexError: class labels count from 0 to the number of") as caught:
        step(plan, nn.Linear(3, 2), torch.zeros(4, 3), torch.tensor([0, 1, 987, 1]))
    assert "987" not in str(caught.value)


@pytest.mark.slow
def test_indices_that_a_backward_kernel_would_follow_are_looked_at() -> None:
    """A plan that nobody captured: it scatters by numbers from the batch, and nothing before that looks at them."""

    @cloister.plan
    def scattered(model: nn.Module, x: Tensor) -> Tensor:
        spread = torch.ops.aten.embedding_dense_backward(model.weight.detach(), x[0].long(), 4, -1, False)
        return (model(spread) ** 2).sum()

    model = nn.Linear(3, 3)
    plan = scattered.capture(model, example=rows(3))
    assert torch.isfinite(step(plan, model, torch.tensor([[0.0, 3.0, 1.0]])).loss)
    for hostile in (4.0, -2.0, 1e9):
        with pytest.raises(PlanError, match="embedding_dense_backward: indices must be at least 0 and less than 4"):
            step(plan, model, torch.tensor([[0.0, hostile, 1.0]]))


@pytest.mark.slow
def test_a_plan_of_a_larger_batch_than_memory_allows_is_refused_in_time() -> None:
    plan = squares.capture(nn.Linear(3, 2), example=rows(3))
    small = cloister.Plan.decode(plan.encode(), memory_bytes=1 << 12)
    with pytest.raises(PlanError, match="the limit is 4096"):
        step(small, nn.Linear(3, 2), torch.zeros(1000, 3))


@pytest.mark.slow
def test_encoded_and_back_it_is_the_same_plan() -> None:
    plan = squares.capture(Noisy(), example=rows(3))
    again = cloister.Plan.decode(plan.encode())
    assert (again, hash(again), again.digest, again.code) == (plan, hash(plan), plan.digest, plan.code)
    assert encoding.decode(plan.encode()) == plan.program
    assert plan.digest.hex()[:12] in repr(plan)
