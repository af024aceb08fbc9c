"""Jobs of a charter: what is read and written, and each number that nobody may agree on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.charter import job_bounds, summary
from cloister.charter.jobs import AgreedJob, Sampling
from cloister.charter.jobs_toml import job_toml
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.wire.layout import lay_out
from cloister.wire.optimizers import SGD, Adam, AdamW, CosineDecay, Optimizer, StepDecay
from cloister.wire.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from cloister.wire.tensors import TensorSpec
from cloister.worker import optimizers
from tests.support.chains import PLAN
from tests.support.charters import agreed_job, text

MODEL = f'first_model = "{"cd" * 32}"\n'


def job(**changed: Any) -> AgreedJob:
    return agreed_job(PLAN, **{"steps": 10, **changed})


def read(*jobs: AgreedJob, **changed: Any) -> tuple[AgreedJob, ...]:
    return parse_charter(text(jobs=jobs, limits=MODEL, **changed)).jobs


def places(written: str) -> set[str]:
    with pytest.raises(CharterError) as caught:
        parse_charter(written)
    return {line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:]}


SCHEDULES = [None, CosineDecay(10, 0.05), StepDecay(5, 0.5)]
OPTIMIZERS: list[Optimizer] = [
    *(SGD(0.1, schedule=schedule) for schedule in SCHEDULES),
    SGD(1.0, clip_norm=1e-3, momentum=0.9, nesterov=True),
    SGD(0.25, momentum=0.99, dampening=0.9),
    Adam(0.001),
    AdamW(0.1, weight_decay=0.0, betas=(0.0, 0.9), eps=1e-2, amsgrad=True),
]
STRATEGIES = [FedAvg(), FedAvg(0.5, 0.1), FedProx(mu=0.05), FedAvgM(), FedAdagrad(), FedYogi(), FedAdam(1.0)]


@pytest.mark.parametrize(
    ("optimizer", "strategy"),
    [
        each
        for each in itertools.product(OPTIMIZERS, STRATEGIES)
        if isinstance(each[0], SGD) or not isinstance(each[1], FedProx)
    ],
)
def test_what_is_written_is_read(optimizer: Optimizer, strategy: Any) -> None:
    written = job(optimizer=optimizer, strategy=strategy, data='#m"ri \u00e9\\')
    assert read(written, min_rows="32") == (written,)


@pytest.mark.parametrize("precision", ["full", "bfloat16", "float16"])
def test_a_precision_is_read_as_it_was_written(precision: Any) -> None:
    written = job(precision=precision)
    assert read(written) == (written,)
    assert ("precision" in job_toml(written)) == (precision != "full")
    told = summary.job(written)
    assert told.get("precision") == (
        None if precision == "full" else f"values travel as {precision}, in two bytes each"
    )


def test_the_length_of_a_contribution() -> None:
    layout = lay_out({"a": TensorSpec("float64", (3,)), "b": TensorSpec("float32", (2,))})
    assert job().contribution_bytes(layout) == 40
    assert job(precision="bfloat16").contribution_bytes(layout) == 10
    assert job(sampling=Sampling(rate=0.5, rows=9)).contribution_bytes(layout) == 20


def test_jobs_stand_in_the_order_of_their_names() -> None:
    first, second = job(name="a"), job(name="b", data="#ct", weights="rows", unsafe_lr="a reason", optimizer=SGD(2.0))
    assert read(second, first, row_buckets="[20]") == (first, second)


def test_what_is_left_out_is_what_a_script_leaves_out() -> None:
    written = text(jobs=[job()], limits=MODEL)
    shortened = written.replace(
        '{ name = "SGD", lr = 0.1, weight_decay = 0.0, momentum = 0.0, dampening = 0.0, nesterov = false }',
        '{ name = "SGD", lr = 0.1 }',
    ).replace('{ name = "FedAvg", lr = 1.0, decay = 0.0 }', '{ name = "FedAvg" }')
    shortened = shortened.replace('weights = "uniform"\n', "")
    assert len(shortened) < len(written) - 100
    assert parse_charter(shortened) == parse_charter(written)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("plan = ", "scheme = ", "jobs[0].plan"),
        ('name = "train"', 'name = "../x"', "jobs[0].name"),
        ('data = "#mri"', 'data = ""', "jobs[0].data"),
        ("steps = 10", "steps = 0", "jobs[0].steps"),
        ("steps = 10", "steps = [10, 20]", "jobs[0].steps"),  # no range: two jobs of it could be subtracted
        ("batch_size = 32", 'batch_size = "any"', "jobs[0].batch_size"),
        ("batch_size = 32", "batch_size = 31", "jobs[0].batch_size"),
        ("rounds = 3\n", "rounds = 101\n", "jobs[0].rounds"),
        ('name = "SGD"', 'name = "Lion"', "jobs[0].optimizer.name"),
        ('name = "SGD", lr = 0.1,', 'name = "SGD",', "jobs[0].optimizer.lr"),
        ("lr = 0.1", 'lr = "small"', "jobs[0].optimizer.lr"),
        ("nesterov = false", "nesterov = 0", "jobs[0].optimizer.nesterov"),
        ("nesterov = false", "betas = [0.9, 0.99]", "jobs[0].optimizer.betas"),
        ("nesterov = false", 'schedule = { name = "Linear" }', "jobs[0].optimizer.schedule.name"),
        ('{ name = "FedAvg", lr = 1.0, decay = 0.0 }', '"FedAvg"', "jobs[0].strategy"),
        ('{ name = "FedAvg", lr = 1.0, decay = 0.0 }', '""', "jobs[0].strategy"),
        ('weights = "uniform"', 'weights = "equal"', "jobs[0].weights"),
        ('weights = "uniform"', 'weights = "rows"', "jobs[0].weights"),
        ("max_s = 60", "max_s = 604801", "jobs[0].max_s"),
        ("max_s = 60", "max_s = 60\nseed = 7", "jobs[0].seed"),
        ("max_s = 60", 'max_s = 60\nprecision = "float8"', "jobs[0].precision"),
        ("max_s = 60", "max_s = 60\nprecision = 16", "jobs[0].precision"),
    ],
)
def test_each_fault_has_its_place(old: str, new: str, place: str) -> None:
    written = text(jobs=[job()], limits=MODEL)
    assert old in written
    assert place in places(written.replace(old, new, 1))


def test_one_data_set_has_one_batch_size() -> None:
    """An owner with rows for the one and not for the other would be what two means differ by."""
    other = job(name="z", batch_size=64)
    assert "jobs[1].batch_size" in places(text(jobs=[job(), other], limits=MODEL))
    read(job(), job(name="z", batch_size=64, data="#ct"))


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"weights": "rows"}, "jobs[1].weights"),
        ({"optimizer": SGD(0.1, clip_norm=1.0)}, "jobs[1].optimizer"),
        ({"optimizer": Adam(0.001, clip_norm=1e-3)}, "jobs[1].optimizer"),
    ],
)
def test_owners_count_for_as_much_in_all_jobs_on_one_data_set(changed: dict[str, Any], place: str) -> None:
    """Else two means are two sums of the same contributions, and one owner's is what they differ by."""
    assert places(text(jobs=[job(), job(name="z", **changed)], limits=MODEL, row_buckets="[20]")) == {place}
    read(job(), job(name="z", data="#ct", **changed), row_buckets="[20]")
    alike = {"weights": "rows", "optimizer": SGD(0.5, clip_norm=1.0)}
    read(job(**alike), job(name="z", **{**alike, "optimizer": Adam(0.001, clip_norm=1.0)}), row_buckets="[20]")


def test_jobs_run_in_rounds_which_an_interactive_charter_has_not() -> None:
    assert places(text(jobs=[job()], limits=MODEL, interactive="true")) == {"limits.interactive"}


def test_two_jobs_of_one_name() -> None:
    assert "jobs[1].name" in places(text(jobs=[job(), job(steps=11)], limits=MODEL))


# --- What nobody may agree on: the number, and its bound

BOUNDS = [
    ({"optimizer": SGD(1.01)}, "lr is 1.01, and must be from 0.01 to 1 for SGD"),
    (
        {"optimizer": SGD(9e-3)},
        "lr is 0.009, and must be from 0.01 to 1 for SGD (the least with what momentum makes of it)",
    ),
    ({"optimizer": SGD(9e-4, momentum=0.9)}, "lr is 0.0009, and must be from 0.01 to 1 for SGD"),
    ({"optimizer": Adam(0.11)}, "lr is 0.11, and must be from 1e-06 to 0.1 for Adam"),
    ({"optimizer": AdamW(0.11, weight_decay=0.0)}, "to 0.1 for AdamW"),
    ({"optimizer": SGD(0.0)}, "lr is 0"),
    ({"optimizer": SGD(-1.0)}, "lr is -1, and must be finite and at least 0"),
    ({"optimizer": SGD(math.nan)}, "lr is nan"),
    ({"optimizer": SGD(0.1, weight_decay=1e-4)}, "weight_decay is 0.0001, and must be 0 at owners"),
    ({"optimizer": AdamW(0.001)}, "weight_decay is 0.01"),
    ({"optimizer": SGD(0.1, clip_norm=9e-4)}, "clip_norm is 0.0009, and must be at least 0.001"),
    ({"optimizer": SGD(1e-6, schedule=CosineDecay(1, 10.0))}, "lowest is 10, and must be at most lr, 1e-06"),
    ({"optimizer": SGD(1.0, schedule=StepDecay(1, 0.0))}, "least learning rate of a round is 0"),
    ({"optimizer": SGD(1.0, schedule=StepDecay(1, 0.7))}, "must be at least a tenth of lr"),
    ({"optimizer": SGD(1.0, schedule=CosineDecay(10, 0.0))}, "must be at least a tenth of lr"),
    ({"optimizer": SGD(0.1, momentum=1.0)}, "momentum is 1, and must be from 0 to below 1"),
    ({"optimizer": SGD(1e-7, momentum=16.0)}, "momentum is 16"),
    ({"optimizer": SGD(0.1, momentum=0.5, dampening=-1e7)}, "dampening is -1e+07, and must be from 0 to 0.9"),
    ({"optimizer": SGD(0.1, momentum=0.5, dampening=1.0)}, "dampening is 1"),
    ({"optimizer": Adam(0.001, betas=(0.995, 0.999))}, "a beta is 0.995, and must be from 0 to 0.99"),
    ({"optimizer": Adam(0.001, betas=(0.9, 0.5))}, "a beta is 0.5, and must be from 0.9 to 0.9999"),
    ({"optimizer": Adam(0.001, eps=0.0)}, "eps is 0, and must be from 1e-10 to 0.01"),
    ({"optimizer": Adam(0.001, eps=1.0)}, "eps is 1"),
    ({"optimizer": Adam(0.001), "steps": 7}, "Adam with 7 steps of each owner in a round, and must have at least 8"),
    ({"optimizer": SGD(0.5), "strategy": FedProx(mu=2.0)}, "lr times the strategy's mu is 1, and must be below 1"),
    ({"strategy": FedAvg(1e-3)}, "lr is 0.001, and must be from 0.5 to 10 for FedAvg"),
    ({"strategy": FedAvg(11.0)}, "lr is 11"),
    ({"strategy": FedAvg(math.inf)}, "lr is inf"),
    ({"strategy": FedAdam(9e-4, tau=1e-6)}, "lr is 0.0009, and must be from 0.001 to 10 for FedAdam"),
    ({"strategy": FedAdam(0.01, tau=1e-2)}, "lr times 1 - beta1 is 0.001, and must be at least tau, 0.01"),
    ({"strategy": FedYogi(0.01, beta1=0.99)}, "lr times 1 - beta1 is 0.0001, and must be at least tau, 0.001"),
    ({"strategy": FedAvg(1.0, 0.6)}, "decay is 0.6, and must be at most 0.5"),
    ({"strategy": FedAvgM(momentum=0.995)}, "momentum is 0.995, and must be at most 0.99"),
    ({"strategy": FedAdam(beta1=0.995)}, "beta1 is 0.995"),
    ({"strategy": FedYogi(beta2=0.5)}, "beta2 is 0.5"),
    ({"strategy": FedAdagrad(tau=1e-9)}, "tau is 1e-09"),
    ({"unsafe_lr": " "}, "is no reason"),
    ({"data": "#mri\n"}, "is no tag"),
]


@pytest.mark.parametrize(("changed", "text"), BOUNDS)
def test_a_number_out_of_bounds_is_named_with_its_bound(changed: dict[str, Any], text: str) -> None:
    found = [fault for _, fault in job_bounds.faults(job(**changed))]
    assert any(text in fault for fault in found), found


def test_a_charter_may_say_why_a_rate_is_above_its_bound() -> None:
    assert not [*job_bounds.faults(job(optimizer=SGD(3.0), unsafe_lr="losses here are of the order of 1e-4"))]


def test_a_reason_for_a_rate_within_its_bounds_is_a_fault() -> None:
    assert "jobs[0].unsafe_lr" in places(text(jobs=[job(unsafe_lr="just in case")], limits=MODEL))
    read(job(unsafe_lr="it is slow", optimizer=SGD(1.5)))


def test_with_momentum_the_least_rate_is_that_much_lower() -> None:
    assert not [*job_bounds.faults(job(optimizer=SGD(1.1e-3, momentum=0.9), steps=30))]
    few = job(optimizer=SGD(1e-6, momentum=0.99999), steps=30)  # steps in which momentum makes nothing of it
    assert [text[:24] for _, text in job_bounds.faults(few)] == ["lr is 1e-06, and must be"]


rates = st.floats(1e-2, 1.0)
schedules = st.one_of(
    st.builds(StepDecay, st.integers(1, 30), st.floats(0, 1)),
    st.builds(CosineDecay, st.integers(1, 30), st.floats(0, 1)),
)


@given(rates, schedules, st.integers(1, 40))
def test_the_least_rate_is_that_of_the_steps_themselves(lr: float, schedule: Any, steps: int) -> None:
    """What is allowed never falls below a tenth on the way, by the rule of each schedule written out step by step."""
    found = job(optimizer=SGD(lr, schedule=schedule), steps=steps)
    if any(job_bounds.faults(found)):
        return
    if isinstance(schedule, StepDecay):
        along = itertools.accumulate(
            range(1, steps), lambda rate, at: rate * (schedule.factor if at % schedule.every == 0 else 1), initial=lr
        )
    else:
        along = iter(
            schedule.lowest + (lr - schedule.lowest) * (1 + math.cos(math.pi * at / schedule.steps)) / 2
            for at in range(steps)
        )
    assert min(along) >= 0.1 * lr * (1 - 1e-9)


# How many rows count


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        ({"optimizer": SGD(0.1)}, 128),
        ({"optimizer": SGD(0.1), "steps": 1}, 64),
        ({"optimizer": SGD(1.0, schedule=CosineDecay(1, 0.1))}, 64 * 1.1**2 / 1.01),
        ({"optimizer": SGD(1.0, momentum=0.5)}, 64 * 2.5**2 / (1.5**2 + 1)),
        ({"optimizer": SGD(1.0, momentum=0.01, dampening=0.9)}, 64 * 1.11**2 / (1.01**2 + 0.1**2)),
        ({"optimizer": SGD(0.1), "strategy": FedProx(mu=9.0)}, 64 * 1.1**2 / 1.01),
        ({"optimizer": Adam(0.1, betas=(0.0, 0.999), schedule=StepDecay(1, 0.5))}, 64 * 1.5**2 / 1.25),
        ({"optimizer": Adam(0.1, betas=(0.5, 0.999))}, 64 * 2**2 / ((4 / 3) ** 2 + (2 / 3) ** 2)),
        ({"optimizer": SGD(0.1), "steps": 1 << 20}, 64 * job_bounds.COUNTED_STEPS),
        ({"optimizer": SGD(1e-9, schedule=StepDecay(1, 0.0)), "steps": 1}, 64),
        ({"optimizer": SGD(0.0)}, 0),
    ],
)
def test_the_rows_that_count_are_those_of_the_steps_that_do(changed: dict[str, Any], rows: float) -> None:
    assert job_bounds.rows_that_count(job(**{"batch_size": 64, "steps": 2, **changed})) == pytest.approx(rows)


@given(
    lr=st.floats(0.01, 1.0),
    momentum=st.floats(0.0, 0.99),
    dampening=st.floats(0.0, 0.9),
    nesterov=st.booleans(),
    part=st.floats(0.0, 0.99),
    factor=st.floats(0.5, 1.0),
    steps=st.integers(1, 12),
)
def test_they_are_what_a_training_makes_of_each_step(
    *, lr: float, momentum: float, dampening: float, nesterov: bool, part: float, factor: float, steps: int
) -> None:
    """Steps as PyTorch takes them, forwards, with one gradient after the other set to 1 and the others to 0."""
    nesterov = nesterov and momentum > 0
    dampening = 0.0 if nesterov else dampening
    mu = part / lr
    weights = []
    for counted in range(steps):
        moved = carried = 0.0
        for step in range(steps):
            gradient = float(step == counted) - mu * moved
            fresh = 1.0 if step == 0 or not momentum else 1 - dampening
            carried = momentum * carried + fresh * gradient
            moved += lr * factor**step * (gradient + momentum * carried if nesterov else carried)
        weights.append(moved)
    optimizer = SGD(
        lr, momentum=momentum, dampening=dampening, nesterov=nesterov, schedule=StepDecay(every=1, factor=factor)
    )
    rows = job_bounds.rows_that_count(job(optimizer=optimizer, strategy=FedProx(mu=mu), steps=steps, batch_size=16))
    assert rows == pytest.approx(16 * sum(weights) ** 2 / sum(each**2 for each in weights), rel=1e-6, abs=1e-6)


@given(
    beta=st.floats(0.0, 0.99),
    schedule=st.one_of(st.none(), schedules),
    steps=st.integers(1, 12),
    decoupled=st.booleans(),
)
def test_with_adam_too(*, beta: float, schedule: Any, steps: int, decoupled: bool) -> None:
    """PyTorch's own steps, with an eps beside which the second moments are nothing."""
    weights = []
    for counted in range(steps):
        weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        kind = optimizers.AdamW if decoupled else optimizers.Adam
        declared = kind(
            lr=0.1,
            weight_decay=0.0,
            betas=(beta, 0.99),
            eps=1e12,
            schedule=None if schedule is None else optimizers.read(SGD(0.1, schedule=schedule)).schedule,
        )
        update = declared.over({"w": weight})
        for step in range(steps):
            update.step({"w": torch.tensor(float(step == counted), dtype=torch.float64)})
        weights.append(-weight.item() * 1e12)
    found = job(
        optimizer=Adam(0.1, betas=(beta, 0.99), schedule=schedule), strategy=FedAvg(), steps=steps, batch_size=16
    )
    squares = sum(each**2 for each in weights)
    wanted = 16 * sum(weights) ** 2 / squares if squares else 0.0
    assert job_bounds.rows_that_count(found) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_fedprox_is_for_sgd() -> None:
    found = job(optimizer=Adam(0.1), strategy=FedProx(mu=0.1), steps=30)
    assert [text for _, text in job_bounds.faults(found)] == [
        "it is Adam, and the strategy FedProx: take SGD, with which it is known what each step counts for"
    ]
    assert not [*job_bounds.faults(job(optimizer=Adam(0.1), strategy=FedProx(mu=0.0), steps=30))]


def test_a_charter_says_how_many_rows_have_to_count() -> None:
    few = job(optimizer=SGD(1.0, momentum=0.9), batch_size=32, steps=3)
    with pytest.raises(
        CharterError, match="are 3, in which 84 rows of an owner count, and at least min_rows, 96, must"
    ):
        read(few)
    assert read(few, min_rows="84") == (few,)
    assert places(text(jobs=[job(batch_size=32)], limits=MODEL, min_rows="31")) == {"limits.min_rows"}
