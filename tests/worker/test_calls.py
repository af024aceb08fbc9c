"""One operation: what it may take is asked before it runs, and what fails has had no effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cloister.errors import MemoryLimitError
from cloister.tensor import ops
from tests.worker.sessions import MIB, Session

VALUES = torch.arange(4.0)


def test_room_is_asked_for_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(memory_bytes=MIB)
    x = session.put(VALUES)
    op = ops.by_name("aten::repeat")
    ran: list[Any] = []
    monkeypatch.setattr(op, "kernel", lambda *args: ran.append(args))
    assert session.fault("aten::repeat", x, [MIB // 16 + 1]).code == MemoryLimitError.code
    assert not ran


def test_what_fails_half_way_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    x = session.put(VALUES)

    def half(target: torch.Tensor, other: torch.Tensor, **_: Any) -> torch.Tensor:
        target[:2] = other[:2]
        raise RuntimeError("half of it is written")

    monkeypatch.setattr(ops.by_name("aten::add_.Tensor"), "kernel", half)
    session.fault("aten::add_.Tensor", x, session.put(VALUES + 7), outs=0)
    assert torch.equal(session.fetch(x), VALUES)
