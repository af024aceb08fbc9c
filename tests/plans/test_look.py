"""Honest steps are found to average, hostile ones not, and each rule and each concern carries its share of that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError
from cloister.plans import following
from cloister.plans.concerns import Concern
from cloister.plans.following import follow
from cloister.plans.look import Look, look
from cloister.plans.rules import RULES
from cloister.tensor.plan.program import Constant, Line, Program
from tests.plans.samples import CLASSES, HONEST, HOSTILE, SERIES, Sample, Switched, X, captured, linear
from tests.tensor.plan.steps import step

GRAVE = ("warning", "danger")
BY_CHANCE = ("dropout", "encoder")


def grave(found: Look) -> list[str]:
    return [finding.text for finding in found.findings if finding.severity in GRAVE]


def program_of(sample: Sample) -> Program:
    return cloister.plan(sample.step).capture(sample.model(), example=sample.batch).program


def texts(sample: Sample) -> dict[str, str]:
    return {f"{finding.severity} {finding.where}": finding.text for finding in look(program_of(sample)).findings}


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
    program = captured(name).program
    found, kind = look(program), HOSTILE[name][1]
    assert not found.averages
    assert Concern[kind].words in " ".join(grave(found))
    assert {origin.concern.name for origin in follow(program).origins} >= {kind}


def test_one_of_each_is_told_apart() -> None:
    assert look(captured("mse").program).averages
    found = look(captured("an entry").program)
    assert not found.averages
    (finding,) = [each for each in found.findings if each.severity == "danger" and "select" in each.text][:1]
    assert finding.text.endswith("It concerns column 0 and reaches metric score")


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
    program = captured(SOLE[concern]).program
    assert not look(program).averages
    assert look(program, watched=frozenset(Concern) - {concern}).averages


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


def test_what_is_not_understood_says_so() -> None:
    program = captured("mse").program
    at = next(at for at, line in enumerate(program.lines) if line.op == "aten::mse_loss")
    stranger = replace(program.lines[at], op="aten::nobody_knows")
    found = look(replace(program, lines=(*program.lines[:at], stranger, *program.lines[at + 1 :])))
    assert not found.averages
    assert any("is not understood (no worker runs it)" in text for text in grave(found))


def test_counters_are_told_if_they_do_more_than_count() -> None:
    found = texts(Sample(lambda m, x, y: m(x).mean(), Switched, (X, CLASSES)))
    assert "it changes by itself from step to step" in found["warning buffer steps"]


@pytest.mark.slow
def test_counters_of_batch_norm_are_usual() -> None:
    found = look(captured("batch norm").program)
    assert not any("buffer" in finding.where for finding in found.findings if finding.severity != "fine")
    assert any(finding.where.startswith("BatchNorm") for finding in found.findings)


def test_constants_of_rows_are_told() -> None:
    known = torch.zeros(2, 6)
    found = texts(Sample(lambda m, x, y: F.cross_entropy(m(x + known[1]), y), linear, (X, CLASSES)))
    assert "1 tensor along, 48 bytes" in found["note constants"]
    assert "the shape of rows (float32[2, 6])" in found["warning constant 0"]


@pytest.mark.slow
def test_what_honest_layers_tell_is_told() -> None:
    found = {finding.where: finding.text for finding in look(captured("embedding").program).findings}
    assert "which entries" in found["embedding, line 0"]
    assert "each label" in found["head.bias"]
    assert look(captured("units").program).widest == 4
    assert look(captured("lenet").program).widest == 120
    assert look(captured("fixed layer").program).widest == 3
    assert look(captured("embedding").program).widest == 3
    sample = HONEST["encoder"]
    assert sample.batch[0] is SERIES
    assert any(finding.where.startswith("dropout") for finding in look(captured("encoder").program).findings)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a value to come": ({"lines": (Line("aten::relu", (99,), {}, 1),)}, "line 0: aten::relu: there is no value"),
    "a value before all": ({"lines": (Line("aten::relu", (-1,), {}, 1),)}, "there is no value"),
    "no such argument": ({"lines": (Line("aten::relu", (0,), {"x": 1}, 1),)}, "no argument"),
    "too many arguments": ({"lines": (Line("aten::relu", (0, 0), {}, 1),)}, "takes 1 arguments"),
    "an output that is not there": ({"loss": 999}, "hand out"),
    "gradients of nothing": ({"gradients": ()}, "one gradient for each"),
    "too many values": ({"lines": (Line("aten::x", (), {}, 9),) * 30}, "values that are followed"),
    "too many arguments in all": (
        {"lines": (Line("aten::cat", ((0,) * 9,), {}, 1),) * 30},
        "values that are followed",
    ),
    "constants of no size": ({"constants": (Constant("float32", (1 << 48,) * 16, b""),)}, ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_program_meets_a_typed_refusal(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "VALUES", 200)
    monkeypatch.setattr(following, "NAMED", 200)
    changes, words = BROKEN[kind]
    program = captured("mse").program
    if words:
        with pytest.raises(PlanError, match=words):
            look(replace(program, **changes))
    else:
        assert look(replace(program, **changes)).findings


def test_a_row_that_is_handed_out_as_it_is_is_told() -> None:
    plan = cloister.plan(lambda m, x: m(x).mean()).capture(nn.Linear(6, 3), example=(X,)).program
    scores = next(at for at, line in enumerate(plan.lines) if line.op == "aten::addmm")
    found = look(replace(plan, loss=plan.inputs + scores))
    assert not found.averages
    assert found.findings[0].severity == "danger"
    assert "an entry for each row" in found.findings[0].text
