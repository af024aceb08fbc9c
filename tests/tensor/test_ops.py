"""Operations by name and by overload, and their literals on the wire."""

from __future__ import annotations

import pytest
import torch

from cloister.errors import OpRefusedError
from cloister.tensor import ops, optable
from cloister.tensor.ops import Of

aten = torch.ops.aten


def test_name_and_overload_give_the_same_operation() -> None:
    assert ops.by_name("aten::add.Tensor") is ops.of_overload(aten.add.Tensor)
    assert ops.by_name("aten::neg") is ops.of_overload(aten.neg.default)


@pytest.mark.parametrize("name", ["aten::from_file", "aten::set_", "aten::nothing", "prim::x", "add", ""])
def test_what_is_not_in_the_table_is_refused(name: str) -> None:
    with pytest.raises(OpRefusedError, match="no worker runs"):
        ops.by_name(name)


def test_every_row_of_the_table_can_be_read() -> None:
    for name in optable.load():
        op = ops.by_name(name)
        assert op.name == name
        assert len(op.params) == len(op.overload._schema.arguments)


def test_what_an_operation_returns() -> None:
    assert ops.by_name("aten::add.Tensor").returns == (Of.TENSOR,)
    assert ops.by_name("aten::add_.Tensor").inplace
    assert ops.by_name("aten::split.Tensor").returns == (Of.TENSORS,)
    assert ops.by_name("aten::t").views == 0
    assert ops.by_name("aten::neg").views is None


def test_literals_keep_their_type() -> None:
    alpha = ops.by_name("aten::add.Tensor").by_name["alpha"]
    for value in (1, 1.0, True):
        assert type(alpha.from_wire(alpha.to_wire(value))) is type(value)
    dtype = ops.by_name("aten::sum").by_name["dtype"]
    assert dtype.to_wire(torch.float64) == "float64"
    assert dtype.from_wire("float64") is torch.float64
    dim = ops.by_name("aten::sum.dim_IntList").by_name["dim"]
    assert list(dim.from_wire(dim.to_wire([0, -1]))) == [0, -1]


@pytest.mark.parametrize(
    ("op", "argument", "value"),
    [
        ("aten::sum", "dtype", "float31"),
        ("aten::sum", "dtype", 6),
        ("aten::sum.dim_IntList", "dim", [1.5]),
        ("aten::sum.dim_IntList", "dim", [True]),
        ("aten::sum.dim_IntList", "keepdim", 1),
        ("aten::select.int", "dim", "0"),
        ("aten::select.int", "dim", True),
        ("aten::gelu", "approximate", "anything"),
        ("aten::clone", "memory_format", "torch.contiguous_format"),
    ],
)
def test_wrong_literals_are_refused(op: str, argument: str, value: object) -> None:
    with pytest.raises(OpRefusedError, match=argument):
        ops.by_name(op).by_name[argument].from_wire(value)


def test_complex_numbers_do_not_travel_as_arguments() -> None:
    with pytest.raises(OpRefusedError, match="complex"):
        ops.by_name("aten::add.Scalar").by_name["other"].to_wire(1j)
