"""A plan in words, and its operations line by line."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from cloister.errors import PlanError
from cloister.plans.words import code, describe
from cloister.tensor.plan import encoding
from cloister.tensor.plan.program import Buffer, Line, Metric, Parameter
from tests.plans.lines import TABLE, X, op, program
from tests.plans.samples import captured

FORGED = program(
    op("relu (5)", X),
    op("mean", 5),
    parameters=(Parameter(("w float32[4, 4]  fixed",), "float32", (4, 4), True),),
    buffers=(Buffer(("n  fixed",), "int64", ()),),
    metrics=(Metric("a %1", 6),),
)


def test_it_names_what_goes_in_and_out() -> None:
    made = program(op("mm", X, 0), op("relu", 5), op("mean", 6))
    said = str(describe(made))
    assert "takes from each row: column 0 (x): float32[4] and column 1 (y): int64[]" in said
    assert "    w float32[4, 4]\n" in said
    assert "    constant 0: float32[64] 256 bytes" in said
    assert "    matrix product (1)\n    relu (1)\n    sum or mean (1)\n" in said
    assert said.endswith("hands out: the loss")


@pytest.mark.parametrize("told", [str(describe(FORGED)), code(FORGED)])
def test_a_name_looks_like_nothing_beside_it(told: str) -> None:
    for name in ("'w float32[4, 4]  fixed'", "'n  fixed'", "'a %1'", "'relu (5)'"):
        assert name in told or name == "'relu (5)'"
    assert "relu (5)" not in told.replace("'relu (5)'", "")


@pytest.mark.parametrize(
    "changed",
    [
        {"parameters": (Parameter(("w\x1b[8m",), "float32", (4, 4), True),)},
        {"parameters": (Parameter(("w", "w\n"), "float32", (4, 4), True),)},
        {"buffers": (Buffer(("n\u3164",), "int64", ()),)},
        {"metrics": (Metric("a\x9b", 7),)},
        {"lines": (op("relu\n", X), op("mean", 5))},
        {"lines": (op("relu", X, **{"a\n": 1}), op("mean", 5))},
        {"lines": (op("relu", X, "a\n"), op("mean", 5))},
        {"lines": (op("relu", X, named="a\n"), op("mean", 5))},
    ],
    ids=str,
)
def test_a_plan_has_no_name_that_cannot_be_seen(changed: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="a plan has no name such as"):
        encoding.decode(encoding.encode(program(op("relu", X), op("mean", 5), **changed)))


def test_a_plan_has_no_element_type_of_its_own() -> None:
    made = program(op("relu", X), op("mean", 5), parameters=(Parameter(("w",), "f\x1b[8m", (4, 4), True),))
    with pytest.raises(PlanError, match="no element type"):
        encoding.decode(encoding.encode(made))


def test_what_is_in_no_group_goes_by_its_name() -> None:
    said = describe(program(op("special_bessel_j0", X), Line("aten::nobody_knows", (), {}, 0)))
    assert said.operations == (("special_bessel_j0", 1), ("nobody_knows", 1))
    many = describe(program(*(Line(f"aten::x{at}", (), {}, 0) for at in range(99))))
    assert "    other operations (" in str(many)


def test_the_code_shows_what_is_known_of_shapes() -> None:
    text = code(program(op("slice.Tensor", TABLE, 0, 0, 3), op("as_strided", X, (4,), (1,))))
    assert "    %2: float32[b, 4]  x\n" in text
    assert "    %5: [3] = slice.Tensor(%4, 0, 0, 3)\n" in text
    assert "    %6: [?] = as_strided(%2, [4], [1])\n" in text
    assert text.endswith("loss: %6\n")


@pytest.mark.slow
def test_a_captured_plan_is_told_as_a_whole() -> None:
    plan = captured("batch norm")
    said = describe(plan.program)
    assert said.digest == plan.digest
    assert said.updates == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert "a gradient for each trained parameter and a new value for each buffer" in str(said)
    fixed = describe(captured("fixed layer").program)
    assert [each.note for each in fixed.parameters] == ["fixed", "fixed", "", ""]
    fewer = replace(plan.program, gradients=(None, *plan.program.gradients[1:]))
    assert "gradients for 0.bias" in str(describe(fewer))
