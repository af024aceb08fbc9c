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


def test_what_fails_half_way_has_no_effect() -> None:
    session = Session()
    whole, divisors = torch.tensor([8, 8, 8]), torch.tensor([3, 3, 0])
    half = whole.clone()
    with pytest.raises(RuntimeError):
        half.fmod_(divisors)
    assert not torch.equal(half, whole)  # PyTorch leaves what it has written
    x = session.put(whole)
    session.fault("aten::fmod_.Tensor", x, session.put(divisors), outs=0)
    assert torch.equal(session.fetch(x), whole)
