"""What a researcher's arguments become, and what is found out before anything is sent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.errors import ConfigurationError, JobError, PlanError
from cloister.ledger import job as jobs
from cloister.net.identity import Identity
from cloister.study.job import check_start, describe, load, make, planned
from cloister.testing.charters import write_charter
from cloister.worker.plans import Plan

EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


@cloister.plan
def also_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Twice that."""
    return 2 * F.cross_entropy(model(x), y)


class Net(nn.Module):
    """With statistics, a counter, a tied weight, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("scale", torch.full((6,), 0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.norm(self.tied(F.relu(self.first(x)))) * self.scale  # type: ignore[no-any-return]


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def charter(folder: Path, **limits: Any) -> Charter:
    names = {"alice": "owner", "bob": "owner", "carol": "researcher"}
    members = {name: (role, Identity.create(folder / f"{name}.key")) for name, role in names.items()}
    return write_charter(
        folder / "charter.toml", members=members, addresses=["agg.example:7443"], interactive=False, **limits
    )


NUMBERS: dict[str, Any] = {"data": "#mri", "optimizer": cloister.SGD(lr=0.1), "batch_size": 32, "steps": 9, "rounds": 3}


def agreed(plan: Plan, name: str = "train", **changes: Any) -> AgreedJob:
    return cloister.job(name, plan, **{**NUMBERS, **changes})


def test_a_model_is_its_parts_and_its_constants() -> None:
    described = describe(net())
    names = [part.name for part in described.parts]
    assert names == [
        "first.bias",
        "first.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.weight",
        "tied.bias",
    ]
    assert [part.name for part in described.parts if part.buffer] == ["norm.running_mean", "norm.running_var"]
    assert [constant.name for constant in described.constants] == ["norm.num_batches_tracked", "scale"]
    assert len(described.vector) == 6 + 36 + 4 * 6 + 6


def test_a_models_digest_is_of_its_values_names_and_constants() -> None:
    assert cloister.model_digest(net()) == cloister.model_digest(net())
    changed = []
    for change in (
        lambda model: model.first.weight.data.__setitem__((0, 0), 1.0),
        lambda model: model.norm.running_var.fill_(2.0),
        lambda model: model.norm.num_batches_tracked.fill_(2),
        lambda model: model.scale.fill_(0.25),
        lambda model: model.add_module("more", nn.Linear(1, 1)),
        lambda model: model.to(torch.float64),
    ):
        model = net()
        change(model)
        changed.append(cloister.model_digest(model))
    assert len({cloister.model_digest(net()), *changed}) == 7


def test_a_vector_goes_back_into_its_model() -> None:
    described, other = describe(net()), Net()
    load(described.vector, into=other)
    assert cloister.model_digest(other) == described.digest


@pytest.mark.slow
def test_a_job_names_the_charters_and_has_no_numbers(tmp_path: Path) -> None:
    model = net()
    plan = planned(loss, model=model, example=EXAMPLE)
    proximal = agreed(plan, "proximal", strategy=cloister.FedProx(mu=0.5))
    given: dict[str, Any] = {"first_model": cloister.model_digest(model), "clip_buffers": 1.0}
    signed = charter(tmp_path, jobs=[agreed(plan), proximal], **given)
    made = [
        jobs.decode(make(describe(model), plan, wanted, charter=signed)) for wanted in (agreed(plan, "x"), proximal)
    ]
    assert [job.name for job in made] == ["train", "proximal"]
    assert hashlib.sha256(made[0].plan).digest() == plan.digest
    assert made[0].start == signed.limits.first_model == jobs.model_digest(made[0], describe(model).vector)
    assert jobs.agreed(made[1], charter=signed).proximal == 0.5
    again = make(describe(net()), planned(loss, model=net(), example=EXAMPLE), agreed(plan), charter=signed)
    assert again == jobs.encode(made[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 33}, "batch_size (33; the charter has 32)"),
        ({"steps": 10}, "steps (10; the charter has 9)"),
        ({"rounds": 4}, "rounds (4; the charter has 3)"),
        ({"data": "#ct"}, "data ('#ct'; the charter has '#mri')"),
        ({"optimizer": cloister.SGD(lr=0.2)}, "optimizer (SGD(lr=0.2, "),
        ({"strategy": cloister.FedAvg(0.5)}, "strategy (FedAvg(lr=0.5, "),
        ({"weights": "rows"}, "weights ('rows'; the charter has 'uniform')"),
        ({"precision": "bfloat16"}, "precision ('bfloat16'; the charter has 'full')"),
        ({"rounds": 4, "steps": 10}, "rounds (4; the charter has 3); steps (10; the charter has 9)"),
    ],
)
def test_a_job_that_is_not_the_charters_says_what_differs(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    plan = loss.capture(net(), example=EXAMPLE)
    far = agreed(plan, "far", optimizer=cloister.Adam(), rounds=1, data="#x")
    signed = charter(tmp_path, jobs=[far, agreed(plan)], first_model=cloister.model_digest(net()))
    with pytest.raises(JobError) as caught:
        make(describe(net()), plan, agreed(plan, **changes), charter=signed)
    assert f"differs from the charter's job 'train' in {said}" in str(caught.value)


@pytest.mark.slow
def test_a_model_of_which_a_part_is_not_trained_and_a_charter_with_noise(tmp_path: Path) -> None:
    """Noise would be added to that part in each round."""
    frozen = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    frozen.get_parameter("0.bias").requires_grad_(requires_grad=False)
    plan = loss.capture(frozen, example=EXAMPLE)
    wanted = agreed(plan, sampling=cloister.Sampling(rate=0.5, rows=90), steps=1, optimizer=cloister.SGD(lr=0.5))
    noise = cloister.Noise(unit="record", multiplier=2.0, delta=1e-5)
    given: dict[str, Any] = {"first_model": cloister.model_digest(frozen), "noise": noise}
    signed = charter(tmp_path, jobs=[wanted], **given)
    with pytest.raises(PlanError, match=r"does not train the parameter '0\.bias'"):
        make(describe(frozen), plan, wanted, charter=signed)


@pytest.mark.slow
def test_a_model_with_buffers_and_a_charter_without_a_bound_for_them(tmp_path: Path) -> None:
    plan = loss.capture(net(), example=EXAMPLE)
    signed = charter(tmp_path, jobs=[agreed(plan)], first_model=cloister.model_digest(net()))
    with pytest.raises(JobError, match="clip_buffers"):
        make(describe(net()), plan, agreed(plan), charter=signed)


@pytest.mark.slow
def test_a_loss_needs_an_example() -> None:
    with pytest.raises(ConfigurationError, match=r"example=\(torch"):
        planned(loss, model=net(), example=None)
    with pytest.raises(ConfigurationError, match="write @cloister"):
        planned(F.cross_entropy, model=net(), example=EXAMPLE)  # type: ignore[arg-type]
    plan = loss.capture(net(), example=EXAMPLE)
    assert planned(plan, model=net(), example=None) is plan


@pytest.mark.slow
def test_a_plan_that_is_not_the_charters(tmp_path: Path) -> None:
    plan, other = loss.capture(net(), example=EXAMPLE), also_loss.capture(net(), example=EXAMPLE)
    signed = charter(tmp_path, jobs=[agreed(other)], first_model=cloister.model_digest(net()))
    with pytest.raises(JobError, match=f"{plan.digest.hex()}.*{other.digest.hex()}"):
        make(describe(net()), plan, agreed(plan), charter=signed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"max_s": 0}, "max_s is 0"),
        ({"data": ""}, "no tag of a data set"),
        ({"optimizer": cloister.SGD(lr=2.0)}, "must be from 0.01 to 1 for SGD"),
        ({"batch_size": 15}, "batch_size: is 15, and must be at least 16"),
        ({"weights": "row"}, "weights: is 'row', and must be one of uniform, rows"),
        ({"precision": "half"}, "precision: is 'half', and must be one of full, bfloat16, float16"),
        ({"unsafe_lr": "a long story"}, "lr is within its bounds: leave out unsafe_lr"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, r"is torch.optim's; write cloister.SGD\(lr=...\)"),
        ({"optimizer": torch.optim.Adagrad([torch.zeros(1)])}, r"write cloister.SGD\(lr=...\) or cloister.Adam\("),
        ({"optimizer": "SGD"}, "the optimizer is a str"),
    ],
)
def test_numbers_that_nobody_may_agree_on(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        agreed(loss.capture(net(), example=EXAMPLE), **changes)


def test_a_function_is_no_plan_of_a_job() -> None:
    with pytest.raises(ConfigurationError, match=r"a function stands where .* give loss.capture\(model, example=...\)"):
        agreed(loss)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a str stands where a plan is wanted"):
        agreed("loss")  # type: ignore[arg-type]


def test_a_study_starts_where_the_chain_ends() -> None:
    first, other = b"\1" * 32, b"\2" * 32
    check_start(first, newest=first, own=False)
    check_start(first, newest=other, own=True)
    with pytest.raises(JobError, match=other.hex()):
        check_start(other, newest=first, own=False)
    with pytest.raises(JobError, match=r"torch\.manual_seed"):
        check_start(other, newest=first, own=False)
    with pytest.raises(JobError, match=r"start from cloister\.draw_first_model") as caught:
        check_start(other, newest=first, own=False, drawn=True)
    assert "manual_seed" not in str(caught.value)
