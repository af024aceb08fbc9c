"""Rounds with noise through the aggregator's state machine: what comes out, and what owners may not say in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pytest

from cloister.aggregation.discrete_gaussian import discrete_gaussian
from cloister.aggregation.strategies import read
from cloister.aggregation.vectors import Vector
from cloister.charter import Charter
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Part, Tensors
from cloister.ledger.records import Noised
from cloister.wire import rounds as w
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.wire.strategies import FedAdam, FedAvg, Strategy
from cloister.wire.tensors import TensorSpec
from tests.support.owners import (
    CONSTANTS,
    DRAWN,
    OWNER,
    OWNERS,
    RECORD,
    agree,
    first_model,
    key_of,
    plan_of,
    sums_of,
    update_of,
)
from tests.support.rounds import Study

LENGTH = 13
"""Of a model without buffers."""
Z, CLIP = 2.0, 10.0
STEP = CLIP / UNITS * DRAWN["optimizer"].lr / DRAWN["sampling"].rows
DOUBLES = (Part("weight", TensorSpec("float64", (LENGTH,)), buffer=False),)


def drawn(**changed: Any) -> Charter:
    """A charter whose noise hides single records."""
    job = {**DRAWN, **changed.pop("job", {})}
    return agree(length=LENGTH, noise=RECORD, job=job, **changed)


def noises(count: int) -> list[Vector]:
    """What the instance draws, round by round."""
    random = np.random.Generator(np.random.PCG64(0)).bytes
    return [discrete_gaussian(Z * UNITS, size=LENGTH, random=random).astype(np.float64) for _ in range(count)]


def after(strategy: Strategy, means: Iterable[Vector], *, start: Vector) -> Vector:
    rule, model = read(strategy), start
    state = rule.start(LENGTH)
    for mean in means:
        model, state = rule.apply(model, mean=mean, state=state)
    return model


def told(study: Study, name: str, kind: type) -> list[Any]:
    return [each for each in study.said[name] if isinstance(each, kind)]


def members(study: Study) -> list[set[str]]:
    names = {key_of(name): name for name in study.owners}
    return [{names[key] for key in receipt.members} for receipt in study.instance.ledger.receipts]


def saying(study: Study, name: str, **changed: Any) -> None:
    """Has an owner say something else when it is ready."""

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        return [(msgspec.structs.replace(message, **changed) if isinstance(message, w.Ready) else message, body)]

    study.owners[name].spoil = spoil


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam(0.1)], ids=["plain", "Adam"])
def test_a_study_that_hides_records_is_the_arithmetic_by_hand_to_the_last_bit(strategy: Strategy) -> None:
    study = Study(drawn(job={"strategy": strategy}), length=LENGTH)
    study.run()
    sums = [sum(sums_of(name, number, LENGTH).astype(np.int64) for name in OWNERS) for number in (1, 2, 3)]
    unit = CLIP / UNITS / (DRAWN["sampling"].rows / DRAWN["optimizer"].lr)
    means = [(total + noise) * unit for total, noise in zip(sums, noises(3), strict=True)]
    assert study.model.tobytes() == after(strategy, means, start=first_model(LENGTH)).tobytes()
    assert members(study) == [set(OWNERS)] * 3
    Ledger.from_records(study.charter, study.instance.ledger.records)
    for receipt in study.instance.ledger.receipts:
        assert receipt.cohort.noise == Noised("record", Z, DRAWN["sampling"].rate, CLIP)
        assert receipt.record.metrics == {}
        assert {share.weight for share in receipt.cohort.shares} == {1 / 3}


def test_a_study_that_hides_owners_is_the_arithmetic_by_hand() -> None:
    study = Study(agree(length=LENGTH, noise=OWNER), length=LENGTH)
    study.run()
    updates = [sum(update_of(name, number, LENGTH).astype(np.float64) for name in OWNERS) for number in (1, 2, 3)]
    means = [total / 3 + noise * CLIP / UNITS / 3 for total, noise in zip(updates, noises(3), strict=True)]
    found = after(FedAvg(), means, start=first_model(LENGTH))
    assert study.model == pytest.approx(found, abs=3.1 * CLIP / UNITS)  # one unit of the grid for each round
    for receipt in study.instance.ledger.receipts:
        assert receipt.cohort.noise == Noised("owner", Z, 1.0, CLIP)
        assert receipt.record.metrics == {}


def test_sums_for_a_model_of_doubles_are_of_the_grid_too() -> None:
    start = first_model(LENGTH).astype(np.float64)
    named = Tensors(DOUBLES, (), CONSTANTS).name_of(start)
    plan = hashlib.sha256(plan_of(DOUBLES)).digest()
    charter = drawn(job={"rounds": 1, "plan": plan}, first_model=f'"{named.hex()}"')
    study = Study(charter, job={"parts": DOUBLES}, length=LENGTH)
    study.join()
    study.instance.say("rosa", w.Submit(len(study.data)), study.data + start.tobytes())
    study.settle()
    assert members(study) == [set(OWNERS)]
    total = sum(sums_of(name, 1, LENGTH).astype(np.int64) for name in OWNERS)
    found = np.frombuffer(study.rosa.model[1][: LENGTH * 8], np.float64)
    assert found == pytest.approx(start + (total + noises(1)[0]) * STEP, rel=1e-12)


@pytest.mark.parametrize("changed", [{"norm": 1.0}, {"norm": 1e-9}, {"buffers": 1.0}, {"norm": float("nan")}], ids=str)
def test_an_owner_that_tells_how_long_its_sum_is(changed: dict[str, float]) -> None:
    study = Study(drawn(job={"rounds": 1}), length=LENGTH)
    saying(study, "bob", **changed)
    study.run()
    assert "norms are 0" in told(study, "bob", w.Refused)[0].text
    assert members(study) == [{"alice", "chuck"}]


def test_where_noise_hides_owners_they_declare_their_norms() -> None:
    study = Study(agree(length=LENGTH, noise=OWNER, job={"rounds": 1}), length=LENGTH)
    saying(study, "bob", norm=10.000001)
    saying(study, "chuck", norm=1e-3)
    study.run()
    assert "at most the charter's clip" in told(study, "bob", w.Refused)[0].text
    assert "at most what its owner declared" in told(study, "chuck", w.Refused)[0].text
    assert members(study) == []


def test_where_noise_hides_owners_one_may_change_nothing() -> None:
    study = Study(agree(length=LENGTH, noise=OWNER, job={"rounds": 1}), length=LENGTH)
    contributing(study, "bob", np.zeros(LENGTH, np.float32))
    study.run()
    assert members(study) == [set(OWNERS)]


@pytest.mark.parametrize("length", [4 * LENGTH - 4, 4 * LENGTH + 4, 8 * LENGTH])
def test_a_sum_of_another_length_is_not_read(length: int) -> None:
    study = Study(drawn(job={"rounds": 1}), length=LENGTH)
    study.owners["bob"].spoil = lambda message, body: [(message, bytes(length) if body else body)]
    study.run()
    assert members(study) == [{"alice", "chuck"}]


def contributing(study: Study, name: str, sums: Vector) -> None:
    study.owners[name].update = sums.tobytes  # type: ignore[method-assign]


def test_an_owner_that_has_drawn_nothing_is_in_the_round_and_one_that_drew_too_much_is_not() -> None:
    longest = most_drawn(DRAWN["sampling"].rows) * UNITS
    study = Study(drawn(owners=(*OWNERS, "dora"), job={"rounds": 1}), length=LENGTH)
    zeros = np.zeros(LENGTH, np.int32)
    contributing(study, "alice", zeros)
    contributing(study, "bob", np.array([longest, *zeros[1:]], np.int32))
    contributing(study, "dora", np.array([longest + 1, *zeros[1:]], np.int32))
    study.run()
    assert "longer than the sum over all records" in told(study, "dora", w.Refused)[0].text
    assert members(study) == [{"alice", "bob", "chuck"}]


def test_one_that_goes_and_then_is_not_in_the_cohort_is_not_in_the_sum() -> None:
    """Alice's sum was added. She may go, but when Erin is lost as well, the others are asked for another draft."""
    study = Study(drawn(owners=(*OWNERS, "dora", "erin"), job={"rounds": 1}), length=LENGTH)
    study.owners["erin"].spoil = lambda message, body: [] if isinstance(message, w.Contribution) else [(message, body)]
    study.run()
    assert told(study, "erin", w.Send)
    for name in ("alice", "erin"):
        study.instance.disconnect(name)
    study.settle()
    assert members(study) == [{"bob", "chuck", "dora"}]
    assert len(told(study, "bob", w.Send)) == 2
    total = sum(sums_of(name, 1, LENGTH).astype(np.int64) for name in ("bob", "chuck", "dora"))
    assert study.model == pytest.approx(first_model(LENGTH) + (total + noises(1)[0]) * STEP, rel=1e-6)
