"""Honest steps are found to average, hostile ones not, and each rule and each concern carries its share of that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cloister.errors import PlanError
from cloister.plans import following
from cloister.plans.concerns import Concern
from cloister.plans.following import follow
from cloister.plans.look import Look, look
from cloister.plans.rules import RULES
from cloister.tensor.plan.program import Constant, Line, Metric
from tests.plans.lines import COUNT, FIRST, X, op, program
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


def test_one_row_is_told_by_line_column_and_result() -> None:
    assert look(program(op("mean", X))).averages
    lines = op("mean", X), op("select.int", X, 0, 0), op("sum", FIRST + 1)
    found = look(program(*lines, loss=FIRST, metrics=(Metric("score", FIRST + 2),)))
    assert not found.averages
    first = found.findings[0]
    assert (first.severity, first.where) == ("danger", "line 1")
    assert first.text.startswith("select takes single rows out of the batch")
    assert first.text.endswith("It concerns column 0 and reaches metric score")


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


def test_what_no_worker_runs_leaves_nothing_known() -> None:
    found = look(program(op("mean", X), Line("aten::nobody_knows", (), {}, 0)))
    assert not found.averages
    assert any("is not understood (no worker runs it)" in text for text in grave(found))


def test_counters_are_told_if_they_do_more_than_count() -> None:
    counting = op("clone", COUNT), op("add_.Tensor", FIRST, (1,), makes=0), op("mean", X)
    assert not grave(look(program(*counting, updates=(FIRST,))))
    entering = op("mul.Tensor", FIRST + 1, FIRST)
    found = {each.where: each for each in look(program(*counting, entering, updates=(FIRST,))).findings}
    assert found["buffer count"].severity == "warning"
    assert "changes by itself from step to step" in found["buffer count"].text
    fixed = {each.where: each for each in look(program(*counting, entering)).findings}
    assert fixed["buffer count"].severity == "note"


@pytest.mark.slow
def test_counters_of_batch_norm_are_usual() -> None:
    found = look(captured("batch norm").program)
    assert not any("buffer" in finding.where for finding in found.findings if finding.severity != "fine")
    assert any(finding.where.startswith("BatchNorm") for finding in found.findings)


def test_constants_of_rows_are_told() -> None:
    constants = (Constant("float32", (2, 4), bytes(32)), Constant("float32", (64,), bytes(256)))
    found = {each.where: each for each in look(program(op("mean", X), constants=constants, loss=6)).findings}
    assert "2 tensors along, 288 bytes" in found["constants"].text
    assert found["constant 0"].severity == "warning"
    assert "the shape of rows (float32[2, 4])" in found["constant 0"].text
    assert "as large as 10 rows" in found["constant 1"].text


@pytest.mark.slow
def test_what_honest_layers_tell_is_told() -> None:
    found = {finding.where: finding.text for finding in look(captured("embedding").program).findings}
    assert "which entries" in found["embedding (2 times), line 0"]
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
    made = program(op("mean", X), **changes)
    if words:
        with pytest.raises(PlanError, match=words):
            look(made)
    else:
        assert look(made).findings


def test_a_row_that_is_handed_out_as_it_is_is_told() -> None:
    found = look(program(op("relu", X)))
    assert not found.averages
    assert found.findings[0].severity == "danger"
    assert "an entry for each row" in found.findings[0].text
