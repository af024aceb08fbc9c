"""Attack: have all owners but one contribute nothing, so that the mean is that one's update alone.

No job can ask for it: its numbers, its plan and its model are the charter's, no charter has numbers that a training
cannot have, and all owners train for the very same job. Whoever cannot train, or lacks the data, is out of the round,
and counts for no floor; a contribution that changes nothing is refused, so that it counts for none either; and where
all but one change next to nothing, so does that one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cloister
from cloister.aggregator import bodies
from cloister.charter import job_bounds
from cloister.charter.encoding import decode
from cloister.errors import CharterError
from cloister.ledger import job as jobs
from cloister.ledger.job import Part
from cloister.node.study.member import Train
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD, Adam, CosineDecay, StepDecay
from cloister.wire.strategies import FedAvg, FedProx
from cloister.wire.tensors import TensorSpec
from cloister.worker import optimizers
from cloister.worker.data.rows import Arrays
from cloister.worker.training import train
from tests.attacks.gathering import MRI, Gathering
from tests.support.members import Aggregator, declined, job, owner
from tests.support.owners import LENGTH, PARTS, PLAN, agree, agreed, first_model, make_job, plan_of, update_of

NOTHING = np.zeros(LENGTH, np.float32).tobytes()


def idle(order: Train) -> bytes:
    return NOTHING


# Contributions of nothing


def test_without_the_check_the_mean_is_one_owners_update(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = bodies._norm
    monkeypatch.setattr(bodies, "_norm", lambda part: max(norm(part), 1e-30))
    study = with_idle("alice", "chuck")
    (share,) = (
        each for each in study.instance.ledger.receipts[0].cohort.shares if each.member == study.charter.members[1].key
    )
    found = (study.model - first_model()) / share.weight
    assert np.allclose(found, update_of("bob", 1), atol=1e-5)


def test_contributions_that_change_nothing_count_for_no_floor() -> None:
    study = with_idle("alice", "chuck")
    assert "changes nothing" in study.told("alice", w.Refused)[0].text
    assert "floor is 3" in study.told("bob", w.Over)[0].text
    assert not study.instance.ledger.released


def test_one_that_changes_nothing_is_left_out_and_the_round_goes_on() -> None:
    study = with_idle("alice", floor=2)
    study.check(("bob", "chuck"))
    assert any("changes nothing" in note for note in study.nodes["alice"].notes)


def test_those_who_say_that_they_change_nothing_are_out_before_they_send_it() -> None:
    study = with_idle("alice", "chuck", declared=0.0)
    assert "norms are numbers" in study.told("alice", w.Refused)[0].text
    assert not study.told("alice", w.Send)
    assert not study.instance.ledger.released


def test_where_the_others_change_next_to_nothing_so_does_the_one() -> None:
    """No contribution counts for more than the floor-th largest."""
    study = Gathering(agree(floor="3", job={"rounds": 1}))
    for name, size in (("alice", 1e-6), ("chuck", 2e-6)):
        values = update_of(name, 1) / np.float32(np.linalg.norm(update_of(name, 1))) * np.float32(size)
        study.nodes[name].train = lambda order, values=values: values.tobytes()  # type: ignore[misc]
    study.run()
    assert study.instance.ledger.released == 1
    assert np.abs(study.model - first_model()).max() < 2e-6


def with_idle(*names: str, floor: int = 3, declared: float = 10.0) -> Gathering:
    """A round of owners of whom these contribute nothing. They declare as much as there may be, so that the one that
    is left counts in full."""
    study = Gathering(agree(floor=str(floor), job={"rounds": 1}))
    for name in names:
        study.nodes[name].train = idle
        study.nodes[name].norms = (declared, declared)
    study.run()
    return study


# Jobs that only one owner can do


def test_a_data_tag_that_only_one_owner_has() -> None:
    study = Gathering(agreed={"data": "#rare"}, data={"bob": {"#rare": frozenset({"#rare"})}, "alice": MRI})
    study.run()
    assert not study.instance.ledger.released
    assert "0 data sets" in " ".join(study.nodes["alice"].notes)
    assert "1 owner is left in the round" in study.told("rosa", w.Over)[0].text


@pytest.mark.parametrize("why", ["fewer rows than 2 batches of 32", "values that are not finite", "too few rows"])
def test_numbers_under_which_all_but_one_fail(why: str) -> None:
    """Whatever a charter has agreed on: those who fail are not there, and the floor counts the others."""
    study = Gathering(agreed={"rounds": 1})
    study.nodes["alice"].train = study.nodes["chuck"].train = lambda order: why
    study.run()
    assert not study.instance.ledger.released
    assert any(why in note for note in study.nodes["alice"].notes)


# Numbers


def sgd(**changed: Any) -> SGD:
    return SGD(**{"lr": 0.1, **changed})


def adam(**changed: Any) -> Adam:
    return Adam(**{"lr": 0.1, **changed})


TRICKS: dict[str, dict[str, Any]] = {
    "no learning rate": {"optimizer": sgd(lr=0.0)},
    "one below zero": {"optimizer": sgd(lr=-0.1)},
    "a schedule without steps": {"optimizer": sgd(schedule=CosineDecay(0, 0.0))},
    "a schedule that begins before its time": {"optimizer": sgd(schedule=StepDecay(0, 0.0))},
    "a schedule by NaN": {"optimizer": sgd(schedule=StepDecay(1, math.nan))},
    "gradients clipped to nothing": {"optimizer": sgd(clip_norm=0.0)},
    "gradients clipped by NaN": {"optimizer": adam(clip_norm=math.nan)},
    "endless weight decay": {"optimizer": sgd(weight_decay=math.inf)},
    "momentum that is no number": {"optimizer": sgd(momentum=math.nan)},
    "dampening that is no number": {"optimizer": sgd(dampening=math.inf)},
    "nesterov without momentum": {"optimizer": sgd(nesterov=True)},
    "a mean that forgets nothing": {"optimizer": adam(betas=(1.0, 0.999))},
    "a step divided by infinity": {"optimizer": adam(eps=math.inf)},
    "no steps": {"steps": 0},
    "no rounds": {"rounds": 0},
    "empty batches": {"batch_size": 0},
    "a strategy that takes nothing": {"strategy": FedAvg(0.0)},
    "a pull that no owner withstands": {"strategy": FedProx(mu=math.inf)},
}
MODELS: dict[str, dict[str, Any]] = {
    "buffers only": {"parts": tuple(Part(part.name, part.spec, buffer=True) for part in PARTS)},
    "parameters without values": {
        "parts": (Part("mean", PARTS[1].spec, True), Part("w", TensorSpec("float32", (0,)), False))
    },
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_charter_agrees_on_such_numbers(trick: str) -> None:
    """Neither as its members read it, nor as an aggregator is given it."""
    with pytest.raises(CharterError, match=r"jobs\[0\]"):
        agree(job=TRICKS[trick])
    with pytest.raises(CharterError):
        decode(replace(AGREED, jobs=(agreed(**TRICKS[trick]),)).encoded)
    assert decode(replace(AGREED, jobs=(agreed(),)).encoded) == AGREED


@pytest.mark.parametrize("trick", MODELS)
def test_the_aggregator_takes_no_such_job(trick: str) -> None:
    study = Gathering(job=MODELS[trick])
    study.run()
    assert "job" in study.told("rosa", w.Refused)[0].text
    assert not study.told("bob", w.Work)


@pytest.mark.parametrize("trick", MODELS)
def test_no_node_trains_for_such_a_job(trick: str) -> None:
    here = Aggregator.facing(owner())
    here.job = job(here.ledger.charter, **MODELS[trick])
    here.show()
    assert declined(here.member.handle(here.proposal()))


NUMBERS = st.floats() | st.sampled_from([0.0, -0.0, 1e-3, 0.05, 0.5, 0.95, 1.0, math.nan, math.inf, 5e-324])
SCHEDULES = (
    st.none() | st.builds(StepDecay, st.integers(0, 3), NUMBERS) | st.builds(CosineDecay, st.integers(0, 3), NUMBERS)
)
SHARED = (NUMBERS, NUMBERS, st.none() | NUMBERS, SCHEDULES)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.builds(SGD, *SHARED, NUMBERS, NUMBERS, st.booleans())
    | st.builds(Adam, *SHARED, st.tuples(NUMBERS, NUMBERS), NUMBERS, st.booleans())
)
def test_a_node_trains_with_all_numbers_that_a_charter_may_have(numbers: SGD | Adam) -> None:
    """Or else owners could agree on what none of them can do."""
    if any(job_bounds.faults(agreed(optimizer=numbers, steps=10))):
        return
    optimizers.read(numbers)
    assert numbers.lr > 0
    assert agree(job={"optimizer": numbers, "steps": 10}).jobs[0].optimizer == numbers


AGREED = agree()


# Models


@pytest.mark.parametrize("dead", [NOTHING, np.full(LENGTH, np.nan, np.float32).tobytes()], ids=["zeros", "NaN"])
def test_a_dead_model_in_the_place_of_the_charters(dead: bytes) -> None:
    study = Gathering()
    study.join()
    for start in (study.job.start, jobs.model_digest(study.job, dead)):
        data = jobs.encode(make_job(study.charter, start=start))
        study.instance.say("rosa", w.Submit(len(data)), data + dead)
        assert isinstance(study.instance.read("rosa")[-1], w.Refused)
    study.settle()
    assert not study.told("bob", w.Propose)


def test_the_charters_values_with_a_parameter_called_a_buffer() -> None:
    """What nobody trains would be averaged as it is. The model's digest is about its tensors too."""
    parts = tuple(Part(part.name, part.spec, part.buffer or part.name == "bias") for part in PARTS)
    for plan in (PLAN, plan_of(parts)):  # of the charter, and of such a model
        study = Gathering(agree(job={"plan": hashlib.sha256(plan).digest()}), job={"parts": parts, "plan": plan})
        study.run()
        assert ("other tensors" if plan == PLAN else "not the one") in study.told("rosa", w.Refused)[0].text


# What a schedule can do


@cloister.plan
def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x) ** 2).mean()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [optimizers.StepDecay(every=1, factor=0.0), optimizers.CosineDecay(steps=1)])
def test_no_schedule_is_zero_at_the_first_step(schedule: Any) -> None:
    """An owner of one batch contributes like the others."""
    torch.manual_seed(1)
    model = nn.Linear(3, 1)
    rows = torch.randn(4, 3)
    found = train(
        loss.capture(model, example=(rows,)),
        Arrays({"x": rows}),
        parameters=dict(model.named_parameters()),
        buffers={},
        optimizer=cloister.SGD(lr=0.1, schedule=schedule),
        batch_size=4,
        local_epochs=1,
        seed=1,
    )
    assert torch.linalg.vector_norm(found.delta) > 1e-3
