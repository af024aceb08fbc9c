"""Noise in a charter: what it says, what goes with it, and what every change of it does to the digest."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.charter import encoding, summary
from cloister.charter.charter import Noise
from cloister.charter.jobs import AgreedJob, Sampling
from cloister.charter.jobs_toml import job_toml
from cloister.charter.toml import parse_charter
from cloister.charter.warnings import warnings_of
from cloister.errors import CharterError
from cloister.wire import strategies
from cloister.wire.optimizers import SGD, Adam, StepDecay
from tests.support.charters import agreed_job, charter, text

PLAN = b"\xab" * 32
MODEL = f'first_model = "{"cd" * 32}"\n'
RECORD = '{ unit = "record", multiplier = 2.0, delta = 1e-5 }'
OWNER = '{ unit = "owner", multiplier = 2.0, delta = 1e-5 }'


def drawn(**changed: Any) -> AgreedJob:
    """A job whose rows are drawn."""
    given: dict[str, Any] = {"steps": 1, "optimizer": SGD(0.5), "sampling": Sampling(rate=0.25, rows=90)}
    return agreed_job(PLAN, **given | changed)


def noisy(*jobs: AgreedJob, noise: str = RECORD, **changed: str) -> str:
    return text(jobs=jobs or [drawn()], noise=noise, limits=changed.pop("limits", MODEL), **changed)


def faults(written: str) -> str:
    with pytest.raises(CharterError) as caught:
        parse_charter(written)
    return str(caught.value)


def test_what_noise_there_is() -> None:
    found = parse_charter(noisy())
    assert found.limits.noise == Noise(unit="record", multiplier=2.0, delta=1e-5)
    assert found.jobs[0].sampling == Sampling(rate=0.25, rows=90)
    assert encoding.decode(found.encoded) == found
    owner = parse_charter(noisy(agreed_job(PLAN), noise=OWNER))
    assert owner.limits.noise == Noise(unit="owner", multiplier=2.0, delta=1e-5)
    assert encoding.decode(owner.encoded) == owner
    assert job_toml(drawn()) in noisy()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("multiplier = 2.0", "multiplier = 2.5"),
        ("delta = 1e-5", "delta = 1e-6"),
        ("rate = 0.25", "rate = 0.26"),
        ("rows = 90", "rows = 91"),
        ("lr = 0.5", "lr = 0.6"),
    ],
)
def test_every_change_of_meaning_changes_the_digest(old: str, new: str) -> None:
    assert old in noisy()
    assert parse_charter(noisy().replace(old, new, 1)).digest != parse_charter(noisy()).digest


@pytest.mark.parametrize(
    ("noise", "place"),
    [
        ('"some"', "limits.noise"),
        ('{ unit = "row", multiplier = 2, delta = 1e-5 }', "limits.noise.unit"),
        ("{ multiplier = 2, delta = 1e-5 }", "limits.noise.unit"),
        ('{ unit = "record", multiplier = 0.01, delta = 1e-5 }', "limits.noise.multiplier"),
        ('{ unit = "record", multiplier = 1025, delta = 1e-5 }', "limits.noise.multiplier"),
        ('{ unit = "record", delta = 1e-5 }', "limits.noise.multiplier"),
        ('{ unit = "record", multiplier = 2 }', "limits.noise.delta"),
        ('{ unit = "record", multiplier = 2, delta = 0 }', "limits.noise.delta"),
        ('{ unit = "record", multiplier = 2, delta = 0.02 }', "limits.noise.delta"),
        ('{ unit = "record", multiplier = 2, delta = 1e-5, mechanism = "laplace" }', "limits.noise.mechanism"),
    ],
)
def test_noise_that_is_none(noise: str, place: str) -> None:
    assert f"{place}: " in faults(noisy(noise=noise))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"interactive": "true"}, "limits.interactive: is true, and there is noise"),
        ({"clip_buffers": "1.0"}, "limits.clip_buffers: is not for a charter with noise"),
        ({"row_buckets": "[50]"}, "limits.row_buckets: are not for a charter with noise"),
        (
            {"limits": MODEL + '[[limits.metrics]]\nname = "loss"\nlow = 0\nhigh = 1\n'},
            "limits.metrics[0].name: is not for a charter with noise: metrics stay home",
        ),
    ],
)
def test_nothing_beside_it_is_told_without(changed: dict[str, str], said: str) -> None:
    assert said in faults(noisy(**changed))
    assert said in faults(noisy(agreed_job(PLAN), noise=OWNER, **changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sampling": None, "steps": 4}, "jobs[0].sampling: is missing"),
        ({"precision": "bfloat16"}, "jobs[0].precision: is bfloat16, and must be full where rows are drawn"),
        ({"steps": 2}, "jobs[0].steps: is 2, and must be 1 where rows are drawn"),
        ({"optimizer": SGD(0.5, momentum=0.9)}, "jobs[0].optimizer: must be SGD with a learning rate"),
        ({"optimizer": SGD(0.5, weight_decay=0.1)}, "jobs[0].optimizer: must be SGD with a learning rate"),
        ({"optimizer": SGD(0.5, clip_norm=1.0)}, "jobs[0].optimizer: must be SGD with a learning rate"),
        ({"optimizer": SGD(0.5, schedule=StepDecay(2))}, "jobs[0].optimizer: must be SGD with a learning rate"),
        ({"optimizer": SGD(0.0)}, "jobs[0].optimizer: must be SGD with a learning rate"),
        ({"optimizer": Adam(0.1)}, "jobs[0].optimizer: must be SGD with a learning rate"),
        ({"strategy": strategies.FedProx(mu=0.1)}, "jobs[0].strategy: is FedProx"),
        ({"weights": "rows"}, "jobs[0].weights: is rows, and must be uniform with noise"),
        ({"unsafe_lr": "so that it learns"}, "jobs[0].unsafe_lr: gives a reason"),
    ],
)
def test_drawn_rows_are_one_plain_step(changed: dict[str, Any], said: str) -> None:
    assert said in faults(noisy(drawn(**changed)))


@pytest.mark.parametrize(
    "sampling", ["{ rate = 0.0, rows = 1 }", "{ rate = 1.5, rows = 1 }", "{ rate = 0.5, rows = 0 }"]
)
def test_a_draw_that_is_none(sampling: str) -> None:
    assert "jobs[0].sampling." in faults(noisy().replace("{ rate = 0.25, rows = 90 }", sampling))


@pytest.mark.parametrize("noise", ['"none"', OWNER])
def test_rows_are_drawn_for_noise_that_hides_records_alone(noise: str) -> None:
    assert "jobs[0].sampling: is for a charter whose noise hides one record" in faults(noisy(noise=noise))


def test_what_else_bounds_a_job_is_not_for_drawn_rows() -> None:
    """Rows behind a step, steps that count, and the reach of a learning rate: noise stands in the place of all."""
    other = drawn(name="other", batch_size=8, optimizer=SGD(1e-9))
    assert len(parse_charter(noisy(drawn(batch_size=8), other)).jobs) == 2


def test_owners_that_noise_hides_have_all_other_bounds() -> None:
    said = faults(noisy(agreed_job(PLAN, batch_size=31, optimizer=SGD(1e-9)), noise=OWNER))
    assert "jobs[0].batch_size" in said
    assert "jobs[0].optimizer" in said


def test_an_owner_can_read_it() -> None:
    found = parse_charter(noisy())
    limits, job = summary.limits(found.limits), summary.job(found.jobs[0])
    assert limits["clip"] == "the norm of each record's gradient is at most 1"
    assert limits["noise"] == (
        "discrete Gaussian, 2 times the most that the gradient of one record can be, once for all; its epsilon is told"
        " at delta 1e-05"
    )
    assert job["sampling"].startswith("each row is drawn with the probability 0.25, by its owner and by itself")
    assert job["steps"] == "1: one round is one step"
    owner = summary.limits(parse_charter(noisy(agreed_job(PLAN), noise=OWNER)).limits)
    assert "the contribution of one owner" in owner["noise"]
    assert owner["clip"] == "the norm of a contribution's parameters is at most 1"


def test_what_single_rows_can_be_made_to_tell_is_not_warned_of_where_noise_bounds_it() -> None:
    """A chosen first model, plans that nobody proved, few rows: each of them, where noise is little or hides owners."""
    changed = {"min_batch": "16", "min_rows": "32"}
    named = ("first_model: ", "proven_plans is false: ", "min_batch = 16: ", "min_rows = 32: ")

    def told(job: AgreedJob, noise: str) -> set[str]:
        found = warnings_of(charter(jobs=[job], noise=noise, limits=MODEL, **changed))
        return {name for name in named if any(each.startswith(name) for each in found)}

    assert told(drawn(), RECORD) == set()
    assert told(drawn(), RECORD.replace("2.0", "1.9")) == {*named}
    assert told(agreed_job(PLAN), OWNER) == {*named}
    assert told(agreed_job(PLAN), '"none"') == {*named}


def test_a_job_for_fewer_rows_than_one_owner_draws_is_warned_of() -> None:
    """min_examples is 10 here: at a rate of a half, five are expected."""
    few = [drawn(sampling=Sampling(rate=0.5, rows=rows)) for rows in (4, 5)]
    found = [warnings_of(charter(jobs=[each], noise=RECORD, limits=MODEL)) for each in few]
    assert [any("none could take part" in each for each in some) for some in found] == [True, False]


def test_little_noise_is_warned_of() -> None:
    enough = warnings_of(charter(jobs=[drawn()], noise=RECORD, limits=MODEL))
    assert not [each for each in enough if each.startswith("noise: ")]
    less = RECORD.replace("2.0", "1.99")
    found = warnings_of(charter(jobs=[drawn()], noise=less, limits=MODEL))
    assert any(each.startswith("noise: 1.99 times what it hides, and less than 2") for each in found)


def test_a_delta_that_one_record_keeps_is_warned_of() -> None:
    """To tell one record of so many in full is a delta of one in so many."""
    drawn_once = {"jobs": [drawn()], "limits": MODEL}
    for delta, rows, warned in (("0.01", "100", True), ("0.0099", "100", False), ("0.0099", "102", True)):
        noise = RECORD.replace("1e-5", delta)
        found = [each for each in warnings_of(charter(noise=noise, min_examples=rows, **drawn_once)) if "delta" in each]
        assert bool(found) == warned
        assert all(f"delta = {delta} is not below 1 / min_examples, 1 / {rows}" in each for each in found)


def test_a_delta_that_one_owner_keeps_is_warned_of() -> None:
    noise = OWNER.replace("1e-5", "0.01")
    for count, warned in ((99, False), (100, True)):
        owners = [f"hospital {number}" for number in range(count)]
        agreed = charter(jobs=[agreed_job(PLAN)], noise=noise, limits=MODEL, owners=owners)
        found = [each for each in warnings_of(agreed) if "delta" in each]
        assert bool(found) == warned
        assert all("delta = 0.01 is not below 1 / the number of owners, 1 / 100" in each for each in found)
