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
from cloister.errors import ConfigurationError, JobError
from cloister.ledger import job as jobs
from cloister.net.identity import Identity
from cloister.study.job import Numbers, check_start, describe, load, make, planned
from cloister.testing.charters import write_charter
from cloister.wire.optimizers import SGD

EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


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


def numbers(**changes: Any) -> Numbers:
    given = {"data": "#mri", "optimizer": cloister.SGD(lr=0.1), "batch_size": 8, "local_epochs": 2, "rounds": 3}
    return Numbers(**{**given, "strategy": cloister.FedAvg(), "seed": 5, "round_s": 60.0, **changes})


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
def test_a_job_says_all_that_decides_what_is_computed(tmp_path: Path) -> None:
    model = net()
    plan = planned(loss, model=model, example=EXAMPLE)
    agreed = charter(tmp_path, plans=[plan.digest], first_model=cloister.model_digest(model))
    data = make(describe(model), plan, numbers(strategy=cloister.FedProx(mu=0.5)), charter=agreed)
    job = jobs.decode(data)
    assert hashlib.sha256(job.plan).digest() in agreed.limits.plans
    assert job.start == agreed.limits.first_model == jobs.model_digest(job, describe(model).vector)
    assert (job.optimizer, job.batch_size, job.local_epochs) == (SGD(0.1, 0.0, None, None, 0.0, 0.0, False), 8, 2)
    assert (job.data, job.rounds, job.seed, job.proximal, job.seconds) == ("#mri", 3, 5, 0.5, 60.0)
    again = make(describe(net()), planned(loss, model=net(), example=EXAMPLE), numbers(), charter=agreed)
    assert again == make(describe(model), plan, numbers(), charter=agreed)


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
    plan = loss.capture(net(), example=EXAMPLE)
    agreed = charter(tmp_path, plans=[b"\1" * 32], first_model=cloister.model_digest(net()))
    with pytest.raises(JobError, match=plan.digest.hex()):
        make(describe(net()), plan, numbers(), charter=agreed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"rounds": 0}, {"batch_size": 0}, {"local_epochs": 1.5}, {"seed": -1}, {"seed": 1 << 64}]
)
def test_numbers_out_of_range(tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = loss.capture(net(), example=EXAMPLE)
    agreed = charter(tmp_path, plans=[plan.digest], first_model=cloister.model_digest(net()))
    with pytest.raises(ConfigurationError, match=next(iter(changes)).replace("_", ".")):
        make(describe(net()), plan, numbers(**changes), charter=agreed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 101}, "allows 100"),
        ({"data": ""}, "no data set"),
        ({"round_s": 0.0}, "more than 0"),
        ({"optimizer": cloister.SGD(lr=0.0)}, "learning rate"),
    ],
)
def test_what_the_charter_does_not_allow(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    plan = loss.capture(net(), example=EXAMPLE)
    agreed = charter(tmp_path, plans=[plan.digest], first_model=cloister.model_digest(net()))
    with pytest.raises(JobError, match=said):
        make(describe(net()), plan, numbers(**changes), charter=agreed)


def test_a_study_starts_where_the_chain_ends() -> None:
    first, other = b"\1" * 32, b"\2" * 32
    check_start(first, newest=first, own=False)
    check_start(first, newest=other, own=True)
    with pytest.raises(JobError, match=other.hex()):
        check_start(other, newest=first, own=False)
