"""Honest steps are found to average, hostile ones not, and each rule and each concern carries its share of that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cloister
from cloister.plans.concerns import Concern
from cloister.plans.following import follow
from cloister.plans.look import Look, look
from cloister.plans.rules import RULES
from tests.plans.samples import HONEST, HOSTILE, SERIES, captured
from tests.tensor.plan.steps import step

GRAVE = ("warning", "danger")
BY_CHANCE = ("dropout", "encoder")


def grave(found: Look) -> list[str]:
    return [finding.text for finding in found.findings if finding.severity in GRAVE]


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_step_averages(name: str) -> None:
    found = look(captured(name).program)
    assert grave(found) == []
    assert found.averages
    assert found.findings[-1].severity == "fine"


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_step_does_not(name: str) -> None:
    hostile = captured(name).program
    found, kind = look(hostile), HOSTILE[name][1]
    assert not found.averages
    assert Concern[kind].words in " ".join(grave(found))
    assert {origin.concern.name for origin in follow(hostile).origins} >= {kind}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HONEST if name not in BY_CHANCE])
def test_what_averages_does_not_change_when_rows_trade_places(name: str) -> None:
    """The same batch in another order: what is made of it is equal within rounding."""
    torch.manual_seed(2)
    model, plan = HONEST[name].model(), captured(name)
    order = torch.tensor([3, 0, 4, 1, 2])
    given = HONEST[name].batch[0]
    batch: list[Any] = [
        torch.randint(3, (5, *each.shape[1:])) if each.dtype is torch.long else torch.rand(5, *each.shape[1:])
        for each in (given, HONEST[name].batch[1])
    ]
    first = step(plan, model, *batch)
    second = step(plan, model, *(each[order] for each in batch))
    for one, other in ((first.gradients, second.gradients), (first.buffers, second.buffers)):
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(first.loss, second.loss)
    for key in first.metrics:
        torch.testing.assert_close(first.metrics[key], second.metrics[key])


SOLE: dict[Concern, str] = {
    Concern.PICK: "an entry",
    Concern.RANK: "the median",
    Concern.RUN: "squares of running totals",
    Concern.PLACE: "weights by place",
    Concern.FILTER: "only where",
    Concern.STEEP: "a steep slope",
    Concern.OUTWEIGH: "a sum of exponents",
    Concern.PAIRS: "pairs",
    Concern.THIN: "hardly any",
}
"""For each kind of concern a hostile step that nothing else finds."""


@pytest.mark.slow
@pytest.mark.parametrize("concern", SOLE)
def test_without_a_concern_its_step_would_pass(concern: Concern) -> None:
    hostile = captured(SOLE[concern]).program
    assert not look(hostile).averages
    assert look(hostile, watched=frozenset(Concern) - {concern}).averages


@pytest.mark.slow
def test_without_a_rule_an_honest_step_would_not_pass() -> None:
    """Every operation of the honest steps: it is understood by its rule and by nothing else."""
    users: dict[str, str] = {}
    for name in HONEST:
        for line in captured(name).program.lines:
            users.setdefault(line.op.removeprefix("aten::").partition(".")[0].removesuffix("_"), name)
    assert len(users) > 80
    for operation, name in users.items():
        fewer = {key: rule for key, rule in RULES.items() if key != operation}
        assert not look(captured(name).program, rules=fewer).averages, operation


@pytest.mark.slow
def test_counters_of_batch_norm_are_usual() -> None:
    found = look(captured("batch norm").program)
    assert not any("buffer" in finding.where for finding in found.findings if finding.severity != "fine")
    assert any(finding.where.startswith("BatchNorm") for finding in found.findings)


@pytest.mark.slow
def test_what_honest_layers_tell_is_told() -> None:
    found = {finding.where: finding.text for finding in look(captured("embedding").program).findings}
    assert any(where.startswith("embedding, line") and "which entries" in text for where, text in found.items())
    assert "each label" in found["head.bias"]
    assert look(captured("units").program).widest == 4
    assert look(captured("lenet").program).widest == 120
    assert look(captured("fixed layer").program).widest == 3
    assert look(captured("embedding").program).widest == 3
    sample = HONEST["encoder"]
    assert sample.batch[0] is SERIES
    assert any(finding.where.startswith("dropout") for finding in look(captured("encoder").program).findings)


@pytest.mark.slow
def test_a_table_that_is_not_trained_tells_nothing() -> None:
    model = HONEST["embedding"].model()
    for each in model.modules():
        if isinstance(each, torch.nn.Embedding):
            each.weight.requires_grad_(False)
    sample = HONEST["embedding"]
    found = look(cloister.plan(sample.step).capture(model, example=sample.batch).program)
    assert found.averages
    assert not any("which entries" in finding.text for finding in found.findings)
