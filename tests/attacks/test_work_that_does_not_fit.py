"""Attack, or mistake: agree on a plan and a model, or name a data set, that do not go together.

Nobody trains a step of it. What the researcher can know is said to the researcher before anything is sent; what only an
owner's node can know, it says before the first step, to its owner and in declining the round. Each names the tensor or
the column, and no file. tests/node/study/test_trainer.py has the cases of data in a real training process.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cloister
from cloister.errors import PlanError
from cloister.ledger.job import Based, Constant, Job, Tensors
from cloister.node.study.member import Prove
from cloister.node.study.trainer_process import check_parts
from cloister.study import job
from cloister.wire.tensors import TensorSpec
from tests.support.members import Aggregator, declined, only, owner
from tests.support.owners import agree, make_job

EXAMPLE = (torch.zeros(4, 3), torch.zeros(4, 1))


@cloister.plan
def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return ((model(x) - y) ** 2).mean()


def plan_of(model: nn.Module) -> cloister.Plan:
    return loss.capture(model, example=EXAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Linear(3, 1, bias=False), r"needs the parameter 'bias'"),
        (nn.Linear(3, 1, dtype=torch.float64), r"'weight', .*float32.*given is torch.float64"),
        (nn.Linear(3, 2), r"'weight'.*\[2, 3\]"),
        (nn.Sequential(nn.Linear(3, 1)), r"needs the parameter 'weight'"),
    ],
    ids=["a tensor less", "another type", "another shape", "other names"],
)
def test_a_plan_of_another_model_is_told_to_the_researcher(model: nn.Module, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        job.planned(plan_of(nn.Linear(3, 1)), model=model, example=None)


def test_a_plan_of_this_model_is_taken() -> None:
    plan = plan_of(nn.Linear(3, 1))
    assert job.planned(plan, model=nn.Linear(3, 1), example=None) is plan


def job_of(model: nn.Module, **changed: object) -> Job:
    found = job.describe(model, plan_of(model))
    return make_job(agree(), **{"tensors": found.tensors, "start": found.digest} | changed)


def test_each_tensor_that_does_not_fit_is_named_at_the_node() -> None:
    job = job_of(nn.Linear(3, 2, bias=False))
    with pytest.raises(PlanError, match=r"tensor 'weight' is float32\[2, 3\] where.*needs a tensor 'bias'"):
        check_parts(plan_of(nn.Linear(3, 1)), job)


def test_a_parameter_that_is_called_frozen() -> None:
    """It would be trained, and no part of what is contributed."""
    whole = job_of(nn.Linear(3, 1)).tensors
    bias, weight = whole.parts
    for changed in (
        Tensors((bias,), (), (Constant("weight", weight.spec, bytes(12)),)),
        Tensors((bias,), (Based("weight", weight.spec, False, bytes(32), "weight"),)),
    ):
        with pytest.raises(PlanError, match="tensor 'weight' is frozen where the plan trains it"):
            check_parts(plan_of(nn.Linear(3, 1)), job_of(nn.Linear(3, 1), tensors=changed))


def test_a_tensor_of_the_base_of_another_kind() -> None:
    model = nn.Linear(3, 1)
    model.weight.requires_grad_(requires_grad=False)
    (bias,), spec = job_of(model).tensors.parts, TensorSpec("float32", (1, 3))
    for based, why in (
        (Based("weight", spec, True, bytes(32), "weight"), "'weight' is a buffer where the plan needs a parameter"),
        (Based("weight", TensorSpec("float32", (3, 1)), False, bytes(32), "weight"), r"float32\[3, 1\] where the plan"),
        (Based("other", spec, False, bytes(32), "weight"), "needs a tensor 'weight', and the model has none"),
    ):
        with pytest.raises(PlanError, match=why):
            check_parts(plan_of(model), job_of(model, tensors=Tensors((bias,), (based,))))
    check_parts(
        plan_of(model), job_of(model, tensors=Tensors((bias,), (Based("weight", spec, False, bytes(32), "w"),)))
    )


def test_a_buffer_that_stays_at_home_is_none_of_the_base() -> None:
    """What the plan makes of it would be lost, and the answer shorter than its node waits for."""
    model = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    whole = job.describe(model, plan_of(model), home_buffers=True).tensors
    check_parts(plan_of(model), job_of(model, tensors=whole))
    mean = next(each for each in whole.constants if each.name == "1.running_mean")
    based = Based(mean.name, mean.spec, True, bytes(32), mean.name)
    others = tuple(each for each in whole.constants if each is not mean)
    with pytest.raises(
        PlanError, match=r"running_mean' is of the base, which stays as it is, where the plan writes it"
    ):
        check_parts(plan_of(model), job_of(model, tensors=Tensors(whole.parts, (based,), others)))


def test_a_round_that_does_not_fit_takes_no_number_of_the_owners_budget() -> None:
    """Its node declines before it trains, and nothing of it is in its records."""
    here = Aggregator.facing(owner())
    here.propose()
    why = "the data set has column 'y', float64 [1], where the plan needs float32 [1]"
    assert declined(here.member.failed(1, why)) == why
    digest = here.ledger.charter.digest
    assert not here.member._records.took_part(digest)
    assert only(here.member.handle(here.proposal(2)), Prove)
