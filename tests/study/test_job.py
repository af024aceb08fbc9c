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
from cloister.study.job import Described, check_start, describe, load, make, planned
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


def captured(model: nn.Module | None = None) -> Plan:
    """The plan of ``loss`` for this model."""
    return loss.capture(net() if model is None else model, example=EXAMPLE)


def described(model: nn.Module | None = None) -> Described:
    model = net() if model is None else model
    return describe(model, captured(model))


def digest(model: nn.Module | None = None) -> bytes:
    model = net() if model is None else model
    return cloister.model_digest(model, captured(model))


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
    found = described()
    names = [part.name for part in found.tensors.parts]
    assert names == [
        "first.bias",
        "first.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.weight",
        "tied.bias",
    ]
    assert [part.name for part in found.tensors.parts if part.buffer] == ["norm.running_mean", "norm.running_var"]
    assert [constant.name for constant in found.tensors.constants] == ["norm.num_batches_tracked", "scale"]
    assert found.tensors.base == ()
    assert len(found.vector) == 6 + 36 + 4 * 6 + 6


def test_a_models_digest_is_of_its_values_names_and_constants() -> None:
    assert digest() == digest()
    changed = []
    for change in (
        lambda model: model.first.weight.data.__setitem__((0, 0), 1.0),
        lambda model: model.norm.running_var.fill_(2.0),
        lambda model: model.norm.num_batches_tracked.fill_(2),
        lambda model: model.scale.fill_(0.25),
        lambda model: model.register_buffer("more", torch.zeros(1)),
    ):
        model = net()
        change(model)
        changed.append(digest(model))
    assert len({digest(), *changed}) == 6


def test_a_vector_goes_back_into_its_model() -> None:
    found, other = described(), Net()
    load(found.vector, tensors=found.tensors, into=other)
    assert digest(other) == found.digest


class Mixed(Net):
    """With a layer that is not trained, and statistics that are only read."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.base.eval()
        return super().forward(self.base(x))


def mixed() -> Mixed:
    torch.manual_seed(2)
    return Mixed()


FROZEN = ["base.0.bias", "base.0.weight", "base.1.bias", "base.1.running_mean", "base.1.running_var", "base.1.weight"]


def test_what_a_plan_does_not_learn_is_no_part_of_the_vector() -> None:
    found = described(mixed())
    assert found.tensors.parts == described().tensors.parts
    assert found.vector.shape == described().vector.shape
    floats = [each.name for each in found.tensors.constants if each.spec.dtype == "float32"]
    assert floats == [*FROZEN, "scale"]
    assert {each.name: each.data for each in found.tensors.constants}["base.0.bias"] == bytes(
        mixed().base[0].bias.detach().numpy().tobytes()  # type: ignore[union-attr]
    )
    changed = mixed()
    changed.base[1].running_var.fill_(2.0)  # type: ignore[operator, union-attr]
    assert digest(changed) != found.digest


def test_what_is_in_a_base_is_named_and_not_sent(tmp_path: Path) -> None:
    model = mixed()
    cloister.write_base(model, captured(model), tmp_path / "base.safetensors")
    base = cloister.Base(tmp_path)
    found = describe(model, captured(model), base=base)
    assert [each.name for each in found.tensors.base] == [*FROZEN, "scale"]
    assert [each.buffer for each in found.tensors.base] == [False, False, False, True, True, False, True]
    assert [each.name for each in found.tensors.constants] == ["base.1.num_batches_tracked", "norm.num_batches_tracked"]
    assert {each.file for each in found.tensors.base} == {*base.digests.values()}
    assert found.digest == cloister.model_digest(model, captured(model), base=base) != digest(model)


def test_buffers_that_stay_at_home_are_what_each_owner_begins_with(tmp_path: Path) -> None:
    model = mixed()
    cloister.write_base(model, captured(model), tmp_path / "base.safetensors")
    found = describe(model, captured(model), base=cloister.Base(tmp_path), home_buffers=True)
    assert not any(part.buffer for part in found.tensors.parts)
    assert [each.name for each in found.tensors.constants] == [
        "base.1.num_batches_tracked",
        "norm.num_batches_tracked",
        "norm.running_mean",
        "norm.running_var",
    ]


def test_frozen_tensors_that_are_too_large_belong_into_a_base(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 50_000), nn.Linear(50_000, 3))
    model[0].requires_grad_(requires_grad=False)
    plan = captured(model)
    with pytest.raises(ConfigurationError, match=r"'0.weight', float32\[50000, 6\], .* base=cloister\.Base"):
        describe(model, plan)
    other = nn.Linear(6, 6)
    other.requires_grad_(requires_grad=False)
    small = nn.Sequential(other, nn.Linear(6, 3))
    cloister.write_base(small, captured(small), tmp_path / "other.safetensors")
    with pytest.raises(ConfigurationError, match=r"is in no file of the base: .* cloister\.write_base"):
        describe(model, plan, base=cloister.Base(tmp_path))


def test_a_plan_of_another_model_describes_none() -> None:
    with pytest.raises(PlanError, match=r"captured from another model, which has no 'base\.0\.bias'"):
        describe(mixed(), captured())
    with pytest.raises(PlanError, match=r"needs the parameter 'base\.0\.weight'"):
        describe(net(), captured(mixed()))
    with pytest.raises(ConfigurationError, match="a str stands where a plan is wanted"):
        describe(net(), "plan")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_job_names_the_charters_and_has_no_numbers(tmp_path: Path) -> None:
    model = net()
    plan = planned(loss, model=model, example=EXAMPLE)
    proximal = agreed(plan, "proximal", strategy=cloister.FedProx(mu=0.5))
    given: dict[str, Any] = {"first_model": digest(model), "clip_buffers": 1.0}
    signed = charter(tmp_path, jobs=[agreed(plan), proximal], **given)
    made = [
        jobs.decode(make(described(model), plan, wanted, charter=signed)) for wanted in (agreed(plan, "x"), proximal)
    ]
    assert [job.name for job in made] == ["train", "proximal"]
    assert hashlib.sha256(made[0].plan).digest() == plan.digest
    assert made[0].start == signed.limits.first_model == jobs.model_digest(made[0], described(model).vector)
    assert jobs.agreed(made[1], charter=signed).proximal == 0.5
    again = make(described(), planned(loss, model=net(), example=EXAMPLE), agreed(plan), charter=signed)
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
    signed = charter(tmp_path, jobs=[far, agreed(plan)], first_model=digest())
    with pytest.raises(JobError) as caught:
        make(described(), plan, agreed(plan, **changes), charter=signed)
    assert f"differs from the charter's job 'train' in {said}" in str(caught.value)


@pytest.mark.slow
def test_a_model_of_which_a_part_is_not_trained_and_a_charter_with_noise(tmp_path: Path) -> None:
    """No noise is added to that part, which is no part of what is released."""
    frozen = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    frozen.get_parameter("0.bias").requires_grad_(requires_grad=False)
    plan = loss.capture(frozen, example=EXAMPLE)
    wanted = agreed(plan, sampling=cloister.Sampling(rate=0.5, rows=90), steps=1, optimizer=cloister.SGD(lr=0.5))
    noise = cloister.Noise(unit="record", multiplier=2.0, delta=1e-5)
    given: dict[str, Any] = {"first_model": digest(frozen), "noise": noise}
    signed = charter(tmp_path, jobs=[wanted], **given)
    made = jobs.decode(make(described(frozen), plan, wanted, charter=signed))
    assert [part.name for part in made.tensors.parts] == ["0.weight", "1.bias", "1.weight"]
    assert [each.name for each in made.tensors.constants] == ["0.bias"]


@pytest.mark.slow
def test_a_model_with_buffers_and_a_charter_without_a_bound_for_them(tmp_path: Path) -> None:
    plan = loss.capture(net(), example=EXAMPLE)
    signed = charter(tmp_path, jobs=[agreed(plan)], first_model=digest())
    with pytest.raises(JobError, match="clip_buffers"):
        make(described(), plan, agreed(plan), charter=signed)


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
    signed = charter(tmp_path, jobs=[agreed(other)], first_model=digest())
    with pytest.raises(JobError, match=f"{plan.digest.hex()}.*{other.digest.hex()}"):
        make(described(), plan, agreed(plan), charter=signed)


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
