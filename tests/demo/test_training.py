"""The demonstration's script computes federated averaging, as plain PyTorch does it (McMahan et al. 2017)."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cloister import VirtualWorker
from cloister.demo import hospitals, training
from cloister.demo.hospitals import Patients, Scale
from cloister.demo.training import Round
from cloister.tensor.worker import Worker

ROUNDS = 3


class Federation:
    """The demonstration with workers in this process."""

    def __init__(self) -> None:
        self.parts, self.held_out = hospitals.split(hospitals.load())
        self.aggregator: Worker = VirtualWorker(id="aggregator")
        self.workers: dict[str, Worker] = {name: VirtualWorker(id=name) for name in self.parts}
        for name, part in self.parts.items():
            for tensor, tag in ((part.x, "#x"), (part.y, "#y")):
                self.workers[name].send(tensor, tags=["#breast-cancer", tag])


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation()


def plainly(parts: Mapping[str, Patients], scale: Scale, held_out: Patients) -> tuple[nn.Module, list[Round]]:
    """The same in plain PyTorch, with all data in one place."""
    model = training.new_model()
    total = sum(map(len, parts.values()))
    outcomes = []
    for number in range(1, ROUNDS + 1):
        losses, states = {}, {}
        for name, part in parts.items():
            own = copy.deepcopy(model)
            optimizer = torch.optim.SGD(own.parameters(), lr=0.3)
            for _ in range(training.LOCAL_STEPS):
                optimizer.zero_grad()
                loss = F.binary_cross_entropy_with_logits(own(scale(part.x)), part.y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses[name], states[name] = loss.item(), own.state_dict()
        average = {
            key: sum(states[name][key] * (len(part) / total) for name, part in parts.items()) for key in states[name]
        }
        model.load_state_dict(average)
        outcomes.append(Round(number, losses, training.accuracy(model, held_out)))
    return model, outcomes


def test_the_federation_computes_what_plain_pytorch_does(federation: Federation) -> None:
    at_hospitals, scale = training.find_patients(federation.workers, federation.aggregator)
    everyone = torch.cat([part.x for part in federation.parts.values()])
    assert torch.allclose(scale.mean, everyone.mean(0), rtol=1e-4)
    assert torch.allclose(scale.deviation, everyone.std(0, correction=0), rtol=1e-3)

    held_out = hospitals.pool({"held out": federation.held_out}, scale)
    model: Any = training.new_model()
    outcomes = list(training.federate(at_hospitals, federation.aggregator, model, held_out=held_out, rounds=ROUNDS))
    expected, expected_outcomes = plainly(federation.parts, scale, held_out)
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-5)
    for outcome, other in zip(outcomes, expected_outcomes, strict=True):
        assert outcome.number == other.number
        assert outcome.accuracy == pytest.approx(other.accuracy, abs=1e-5)
        assert outcome.losses == pytest.approx(other.losses, abs=1e-5)


def test_the_federation_learns(federation: Federation) -> None:
    at_hospitals, scale = training.find_patients(federation.workers, federation.aggregator)
    held_out = hospitals.pool({"held out": federation.held_out}, scale)
    model = training.new_model()
    *_, last = training.federate(at_hospitals, federation.aggregator, model, held_out=held_out, rounds=5)
    pooled = training.train_pooled(hospitals.pool(federation.parts, scale), rounds=5)
    assert last.accuracy > 0.9
    assert abs(last.accuracy - training.accuracy(pooled, held_out)) < 0.05


def test_a_hospital_alone_trains_as_plain_pytorch_does(federation: Federation) -> None:
    at_hospitals, scale = training.find_patients(federation.workers, federation.aggregator)
    alone: Any = training.train_alone(at_hospitals["harbour"], rounds=2)
    part = federation.parts["harbour"]
    plain = training.train_pooled(hospitals.pool({"harbour": part}, scale), rounds=2)
    for parameter, other in zip(alone.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(parameter, other, atol=1e-5)


def test_nothing_is_left_at_the_workers(federation: Federation) -> None:
    at_hospitals, scale = training.find_patients(federation.workers, federation.aggregator)
    held_out = hospitals.pool({"held out": federation.held_out}, scale)
    counts = []
    for _ in range(2):
        list(training.federate(at_hospitals, federation.aggregator, training.new_model(), held_out=held_out, rounds=1))
        gc.collect()
        counts.append([worker.count().objects for worker in (federation.aggregator, *federation.workers.values())])
    assert counts[0] == counts[1]


def test_the_first_model_is_the_same_each_time_and_takes_nothing_from_the_callers_generator() -> None:
    before = torch.get_rng_state()
    first, again = training.new_model(), training.new_model()
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert torch.equal(torch.get_rng_state(), before)


def test_accuracy_is_the_share_that_is_judged_right() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    x = torch.tensor([[-1.0], [1.0], [2.0], [3.0]])
    assert training.accuracy(model, Patients(x, torch.tensor([[0.0], [1.0], [1.0], [0.0]]))) == 0.75
