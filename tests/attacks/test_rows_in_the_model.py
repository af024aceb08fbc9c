"""Attack: have owners run a plan that writes one of their rows into the model, or into a metric.

Such a plan is easily written, and clipping and averaging alone do not undo it. No node runs it: each knows by their
digests which plans its owner has signed for. And of the metrics of any plan only those come out that the charter names,
within its ranges, averaged over at least as many owners as a model.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import nn

import cloister
from cloister.ledger import job as jobs
from cloister.wire import rounds as w
from cloister.worker.data.rows import Arrays
from cloister.worker.training import Trained, train
from tests.attacks.gathering import Gathering
from tests.support.members import Aggregator, declined, job, owner
from tests.support.owners import PLAN, agree, first_model, key_of, make_job

ROWS = torch.tensor([[0.25, -0.5, 2.0], [3.0, 0.5, 1.0], [1.0, 1.0, -4.0], [0.5, 0.25, 8.0]])


@cloister.plan
def thief(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Its gradient is the first row; so is a metric of it."""
    return {"loss": (model.weight * x[:1]).sum(), "row": x[0, 2]}  # type: ignore[operator]


@cloister.plan
def honest(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"loss": (model(x) ** 2).mean()}


def trained(loss: Any) -> Trained:
    torch.manual_seed(1)
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)  # so that nothing is rounded
    return train(
        loss.capture(model, example=(ROWS,)),
        Arrays({"x": ROWS}),
        parameters=dict(model.named_parameters()),
        buffers={},
        optimizer=cloister.SGD(lr=1.0),
        batch_size=4,
        local_epochs=1,
        seed=1,
    )


def test_what_such_a_plan_would_carry_away() -> None:
    found = trained(thief)
    assert any(torch.equal(-found.delta, row) for row in ROWS)
    assert found.metrics["row"] in ROWS[:, 2]


@pytest.fixture(scope="module")
def stolen() -> bytes:
    return thief.capture(nn.Linear(3, 1, bias=False), example=(ROWS,)).encode()


@pytest.mark.slow
def test_the_aggregator_takes_no_such_job(stolen: bytes) -> None:
    study = Gathering(job={"plan": stolen})
    study.run()
    assert hashlib.sha256(stolen).hexdigest() in study.told("rosa", w.Refused)[0].text
    assert not study.told("bob", w.Work)


def test_no_node_runs_it_though_the_aggregator_asks_for_it(stolen: bytes) -> None:
    here = Aggregator.facing(owner())
    here.job = job(here.ledger.charter, plan=stolen)
    here.show()
    assert hashlib.sha256(stolen).hexdigest() in declined(here.member.handle(here.proposal()))


@pytest.mark.slow
def test_one_operation_more_is_another_plan() -> None:
    """What is compared is the plan itself, not a name that it goes by."""
    model = nn.Linear(3, 1, bias=False)
    plans = [each.capture(model, example=(ROWS,)) for each in (honest, thief)]
    assert plans[0].digest == hashlib.sha256(plans[0].encode()).digest() != plans[1].digest


METRICS = '[[limits.metrics]]\nname = "loss"\nlow = 0.0\nhigh = 10.0\n'


def test_metrics_that_would_carry_a_row() -> None:
    """An agreed plan, too, has metrics: others than the charter's stay inside, and a value beyond its range is cut."""
    study = Gathering(agree(limits=METRICS, job={"rounds": 1}), job={"plan": PLAN})
    values = {"alice": 1.0, "bob": 123456.789, "chuck": -98765.4321}
    for name, value in values.items():
        study.nodes[name].metrics = {"loss": value, "row": value, "age": 71.0}
    said: list[w.Ready] = []
    for each in study.nodes.values():

        def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
            said.extend([message] if isinstance(message, w.Ready) else [])
            return [(message, body)]

        each.spoil = spoil
    study.run()
    assert sorted(ready.metrics["loss"] for ready in said) == [0.0, 1.0, 10.0]
    assert all(list(ready.metrics) == ["loss"] for ready in said)
    weights = {share.member: share.weight for share in study.instance.ledger.receipts[0].cohort.shares}
    mean = weights[key_of("alice")] * 1.0 + weights[key_of("bob")] * 10.0
    assert study.instance.ledger.receipts[0].record.metrics == {"loss": pytest.approx(mean)}


def test_a_metric_that_one_owner_alone_tells_stays_inside() -> None:
    study = Gathering(agree(limits=METRICS, job={"rounds": 1}))
    for name in ("alice", "chuck"):
        study.nodes[name].metrics = {}
    study.nodes["bob"].metrics = {"loss": 7.25}
    study.run()
    assert study.instance.ledger.receipts[0].record.metrics == {}
    study.check(("alice", "bob", "chuck"))


def test_a_job_of_another_plan_after_the_agreed_one(stolen: bytes) -> None:
    """Once it runs, no other takes its place."""
    study = Gathering(agreed={"rounds": 2})
    study.join()
    study.submit()
    other = jobs.encode(make_job(study.charter, plan=stolen))
    study.instance.say("rosa", w.Submit(len(other)), other + first_model().tobytes())
    assert "its plan is" in study.instance.heard[key_of("rosa")][-1].message.text
    study.settle()
    assert study.instance.ledger.released == 2
