"""A plan in words, and its operations line by line."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cloister.plans.words import code, describe
from cloister.tensor.plan.program import Line
from tests.plans.lines import TABLE, X, op, program
from tests.plans.samples import captured


def test_it_names_what_goes_in_and_out() -> None:
    made = program(op("mm", X, 0), op("relu", 5), op("mean", 6))
    said = str(describe(made))
    assert "takes from each row: column 0: float32[4] and column 1: int64[]" in said
    assert "    w float32[4, 4]\n" in said
    assert "    constant 0: float32[64] 256 bytes" in said
    assert "    matrix product (1)\n    relu (1)\n    sum or mean (1)\n" in said
    assert said.endswith("hands out: the loss")


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
