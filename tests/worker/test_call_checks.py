"""Calls refused by their form: they would change an object under its description, or make more than ids can name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cloister.errors import HostileIndexError, OpRefusedError
from cloister.tensor import ops
from cloister.worker import call_checks
from tests.worker.sessions import MIB, Session

VALUES = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.fixture
def session() -> Session:
    return Session(memory_bytes=MIB)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("aten::t_", []),
        ("aten::transpose_", [0, 1]),
        ("aten::unsqueeze_", [0]),
        ("aten::squeeze_", []),
        ("aten::squeeze_.dim", [0]),
        ("aten::as_strided_", [[1], [1]]),
    ],
)
def test_changing_an_objects_shape_under_its_description(session: Session, op: str, arguments: list[Any]) -> None:
    """The limits are held by the shapes that are noted down."""
    x = session.put(VALUES)
    assert session.fault(op, x, *arguments, outs=0).code == OpRefusedError.code
    assert torch.equal(session.fetch(x), VALUES)


def test_an_out_argument_never_changes_its_size(session: Session) -> None:
    """PyTorch would let it grow, past any limit."""
    x, small = session.put(VALUES), session.put(torch.zeros(0))
    wide = session.call("aten::expand", x, [1 << 20, 2, 2])
    for op in ("aten::div.out", "aten::maximum.out"):
        assert session.fault(op, wide, wide, out=small, outs=0).code == HostileIndexError.code
        assert session.fault(op, wide, wide, out=x, outs=0).code == HostileIndexError.code
    assert session.fault("aten::eye.m_out", 4096, 4096, out=small, outs=0).code == HostileIndexError.code
    assert session.fault("aten::div.out", wide, wide, outs=0).code == HostileIndexError.code
    assert session.fetch(small).numel() == 0


def test_an_out_argument_that_would_grow_is_refused_by_its_form() -> None:
    op, wide = ops.by_name("aten::maximum.out"), torch.zeros(4, 4)
    call_checks.check(op, [wide, wide], {"out": torch.zeros(4, 4)})
    with pytest.raises(OpRefusedError, match="may not change the shape of its out"):
        call_checks.check(op, [wide, wide], {"out": torch.zeros(0)})


def test_an_out_argument_of_the_right_size_is_written(session: Session) -> None:
    x, target = session.put(VALUES), session.put(torch.zeros(2, 2))
    session.call("aten::div.out", x, x, out=target, outs=0)
    assert torch.equal(session.fetch(target), torch.ones(2, 2))


def test_more_tensors_than_ids_can_name(session: Session) -> None:
    """PyTorch would make a Python object for each, long before there was a number to compare with a limit."""
    long = session.call("aten::expand", session.put(torch.zeros(2)), [1 << 40, 2])
    assert session.fault("aten::unbind.int", long).code == OpRefusedError.code
    assert session.fault("aten::split.Tensor", long, 1).code == OpRefusedError.code
    assert session.fault("aten::unsafe_split.Tensor", long, 1).code == OpRefusedError.code
    assert session.fault("aten::unbind.int", long, 7).code in ("op.index", "op.runtime")
    assert session.fault("aten::split.Tensor", long, 0).code == "op.runtime"


def test_as_many_as_ids_can_name(session: Session) -> None:
    x = session.put(torch.arange(500.0))
    pieces = session.call("aten::split.Tensor", x, 1, outs=500)
    assert session.fetch(pieces[-1]) == 499
