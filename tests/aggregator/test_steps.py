"""What is released travels as a step to those that can repeat the round, and whole to those that cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloister.aggregation.steps import step_of, step_type
from cloister.aggregation.strategies import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from cloister.charter.jobs import Precision
from cloister.errors import AggregationError
from cloister.ledger import job as jobs
from cloister.wire import rounds as w
from cloister.wire.halves import widened
from tests.support import charters
from tests.support.owners import LENGTH, METRICS, OWNERS, Party, agree, agreed, key_of, make_job
from tests.support.rounds import Study

BYTES = {"bfloat16": 2, "float16": 2, "full": 4}


def releases(study: Study, name: str) -> list[w.Chain]:
    """What a member was given that led to a model."""
    return [each for each in study.said[name] if isinstance(each, w.Chain) and (each.model or each.step)]


def of(precision: Precision, strategy: Strategy, **more: Any) -> Study:
    return Study(agree(job={"precision": precision, "strategy": strategy.to_wire()}, **more))


@pytest.mark.parametrize("precision", BYTES)
@pytest.mark.parametrize("strategy", [FedAvg(), FedProx(mu=0.1), FedAvgM(), FedAdam(0.1), FedYogi(0.1)])
def test_those_that_hold_the_model_are_given_the_step(precision: Precision, strategy: Strategy) -> None:
    study = of(precision, strategy)
    study.run()
    steps = precision != "full" or bool(strategy.start(1).averages)
    for name in OWNERS:
        first, *others = releases(study, name)
        assert (first.model, first.step) == (4 * LENGTH, 0)  # the first model, which nobody had but the researcher
        assert [each.step for each in others] == [BYTES[precision] * LENGTH if steps else 0] * 3
        assert [each.model for each in others] == [0 if steps else 4 * LENGTH] * 3
    assert [bool(each.step) for each in releases(study, "rosa")] == [False, steps, steps, steps]
    assert {member.model[0] for member in study.parties.values()} == {study.instance.ledger.model}
    assert len({member.model[1] for member in study.parties.values()}) == 1


def test_one_that_comes_late_is_given_the_model_and_then_steps() -> None:
    study = of("bfloat16", FedAvgM())
    study.join("alice", "bob", "rosa")
    study.submit()
    while study.instance.ledger.released < 1:
        study.step()
    study.join("chuck")
    study.settle()
    found = releases(study, "chuck")  # the next round was under way when it came
    assert [(each.model, each.state) for each in found] == [(4 * LENGTH, (8 * LENGTH,))] * 2 + [(0, ())]
    assert found[-1].step == 2 * LENGTH
    assert study.owners["chuck"].model == study.rosa.model


def test_one_that_was_not_shown_the_job_is_given_the_model() -> None:
    """It came while a round was under way: of a step it could make nothing."""
    study = of("bfloat16", FedAvg())
    study.join("alice", "bob", "rosa")
    study.submit()
    while not any(isinstance(each, w.Propose) for each in study.said["alice"]):
        study.step()
    study.join("chuck")
    while study.instance.ledger.released < 1:
        study.step()
    study.settle()
    found = releases(study, "chuck")
    assert [bool(each.step) for each in found] == [False, False, True, True]
    assert study.owners["chuck"].model == study.rosa.model


def test_one_of_whom_it_is_not_known_that_it_holds_the_model_is_given_it() -> None:
    study = of("bfloat16", FedAvg())
    study.join()
    study.submit()
    while not any(isinstance(each, w.Settle) for each in study.said["alice"]):
        study.step()
    study.instance.rounds._peers.all[key_of("bob")].model = None
    while study.instance.ledger.released < 1:
        study.step()
    study.settle()
    assert [bool(each.step) for each in releases(study, "bob")] == [False, False, True, True]
    assert study.owners["bob"].model == study.rosa.model


def test_one_that_takes_no_part_in_the_round_is_given_the_model() -> None:
    """It may refuse the job that it was shown: then it could make nothing of a step, and would leave, and come again,
    with each release. But it bears witness."""
    study = of("bfloat16", FedAvgM())
    study.owners["chuck"].spoil = lambda message, body: [
        (w.Declined(message.round, "no", message.standing) if isinstance(message, w.Ready) else message, body)
    ]
    study.run()
    found = releases(study, "chuck")
    assert [(each.model, each.step) for each in found] == [(4 * LENGTH, 0)] * 4
    assert [bool(each.step) for each in releases(study, "alice")] == [False, True, True, True]


def test_a_researcher_that_has_not_submitted_the_job_is_given_the_model() -> None:
    study = Study(agree(limits=METRICS + charters.member("rick", "researcher"), job={"precision": "bfloat16"}))
    study.parties["rick"], study.said["rick"] = Party("rick", study.charter), []
    study.run()
    assert [each.model for each in releases(study, "rick")] == [4 * LENGTH] * 4


@pytest.mark.parametrize("precision", ["bfloat16", "full"])
def test_a_second_job_begins_with_a_strategy_of_its_own(precision: Precision) -> None:
    """What the first one's strategy remembered is held by all, and is not for this one."""
    first = agreed(rounds=1, strategy=FedAvgM().to_wire(), precision=precision)
    second = agreed(name="more", rounds=2, strategy=FedAvgM().to_wire(), precision=precision)
    study = Study(agree(jobs=[first, second]))
    study.run()
    vector = bytes(study.rosa.model[1][: LENGTH * 4])
    job = make_job(study.charter, name="more", start=study.instance.ledger.model)
    study.rosa.work = jobs.encode(job)
    study.instance.say("rosa", w.Submit(len(study.rosa.work)), study.rosa.work + vector)
    study.settle()
    assert study.instance.ledger.released == 3
    assert len({member.model[1] for member in study.parties.values()}) == 1
    assert all(each.step for each in releases(study, "alice")[2:])


def test_an_instance_that_is_new_has_steps_for_those_that_held_the_model() -> None:
    study = of("bfloat16", FedAdam(0.1))
    study.join()
    study.submit()
    while study.instance.ledger.released < 1:
        study.step()
    for _ in range(20):
        study.step()
    study.restart(seed=1)
    study.join()
    study.submit()
    study.settle()
    assert study.instance.ledger.released == 3
    assert len({member.model[1] for member in study.parties.values()}) == 1


# The step itself


def test_a_step_is_what_the_mean_becomes() -> None:
    mean = np.random.default_rng(1).standard_normal(100) * 1e-3
    for dtype, half in (("float32", None), ("float64", None), ("float32", "bfloat16"), ("float64", "float16")):
        kind = step_type(dtype, half=half, averages=1)  # type: ignore[arg-type]
        assert kind is not None
        rounded = mean.copy()
        step = step_of(rounded, dtype=kind, half=half, job=bytes(32), number=1)  # type: ignore[arg-type]
        assert step.dtype == kind
        assert np.array_equal(widened(step), rounded)
        assert rounded == pytest.approx(mean, rel=2**-7, abs=2**-24)


def test_in_full_a_step_is_made_where_it_is_shorter_than_what_comes_of_it() -> None:
    assert step_type("float32", half=None, averages=0) is None
    assert step_type("float32", half=None, averages=1) == np.float32
    assert step_type("float64", half="bfloat16", averages=0) == np.uint16


def test_its_chance_is_of_the_job_and_of_the_release() -> None:
    mean = np.full(1000, 1 + 2.0**-9)

    def step(job: bytes, number: int) -> bytes:
        kind = step_type("float32", half="bfloat16", averages=0)
        assert kind is not None
        return step_of(mean.copy(), dtype=kind, half="bfloat16", job=job, number=number).tobytes()

    assert step(bytes(32), 1) == step(bytes(32), 1)  # a round that is begun again comes to the same
    assert len({step(bytes(32), 1), step(bytes(32), 2), step(bytes(31) + b"\1", 1)}) == 3


@pytest.mark.parametrize(("half", "value"), [("float16", 65505.0), ("bfloat16", 3.4e38), (None, 1e39)])
def test_a_mean_that_the_type_cannot_hold(half: Any, value: float) -> None:
    kind = step_type("float32", half=half, averages=1)
    assert kind is not None
    with pytest.raises(AggregationError, match="a value beyond the largest of"):
        step_of(np.array([0.0, -value]), dtype=kind, half=half, job=bytes(32), number=1)
