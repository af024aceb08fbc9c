"""What a look tells of programs that were written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.errors import PlanError
from cloister.plans import following
from cloister.plans.look import Look, look
from cloister.tensor.plan.program import Constant, Line, Metric
from tests.plans.lines import COUNT, FIRST, X, op, program

GRAVE = ("warning", "danger")


def grave(found: Look) -> list[str]:
    return [finding.text for finding in found.findings if finding.severity in GRAVE]


def test_one_row_is_told_by_line_column_and_result() -> None:
    assert look(program(op("mean", X))).averages
    lines = op("mean", X), op("select.int", X, 0, 0), op("sum", FIRST + 1)
    found = look(program(*lines, loss=FIRST, metrics=(Metric("score", FIRST + 2),)))
    assert not found.averages
    first = found.findings[0]
    assert (first.severity, first.where) == ("danger", "line 1")
    assert first.text.startswith("select takes single rows out of the batch")
    assert first.text.endswith("It concerns column 0 and reaches metric score")


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


def test_constants_of_rows_are_told() -> None:
    constants = (Constant("float32", (2, 4), bytes(32)), Constant("float32", (64,), bytes(256)))
    found = {each.where: each for each in look(program(op("mean", X), constants=constants, loss=6)).findings}
    assert "2 tensors along, 288 bytes" in found["constants"].text
    assert found["constant 0"].severity == "warning"
    assert "the shape of rows (float32[2, 4])" in found["constant 0"].text
    assert "as large as 10 rows" in found["constant 1"].text


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
