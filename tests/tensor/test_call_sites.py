"""Which line of the caller's script an operation comes from."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from torch import nn

from cloister import VirtualWorker
from cloister.errors import WorkerError
from cloister.tensor import call_sites


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def number_of_line() -> int:
    """As an operation asks for it: from within the library, of its caller."""
    return call_sites.current()


def test_the_line_that_asks() -> None:
    number, where = number_of_line(), line()
    assert call_sites.describe(number) == f"test_call_sites.py, line {where}"


def test_a_line_has_one_number() -> None:
    assert len({number_of_line() for _ in range(3)}) == 1


def test_numbers_that_were_never_given_out() -> None:
    assert "unknown" in call_sites.describe(0)
    assert "unknown" in call_sites.describe(1 << 30)


def test_lines_of_libraries_are_passed_over() -> None:
    worker = VirtualWorker(id="bob")
    model, wrong = nn.Embedding(3, 2).send(worker), torch.tensor([9]).send(worker)
    where = line() + 2
    with pytest.raises(WorkerError) as found:
        model(wrong)
    assert re.search(rf"test_call_sites\.py, line {where}\b", str(found.value))


def test_code_that_is_made_anew_each_time_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_sites, "_INSTRUCTIONS", 4)
    source = "number = ask()"
    for _ in range(20):
        names = {"ask": number_of_line}
        exec(compile(source, "cell.py", "exec"), names)  # noqa: S102 - as a notebook does
        assert call_sites.describe(names["number"]) == "cell.py, line 1"  # type: ignore[arg-type]
        assert len(call_sites._instructions) <= 4
