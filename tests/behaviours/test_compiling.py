"""Behaviour 43, of it ``torch.compile``: what it makes computes with pointers, and it compiles none of our own code."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cloister
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import objs

OURS = str(Path(cloister.__file__).parent)


def compiled_by_dynamo() -> set[str]:
    """The files of whatever PyTorch's compiler has turned into something else so far."""
    from torch._dynamo.convert_frame import output_codes

    return {code.co_filename for reference in output_codes.seen if (code := reference()) is not None}


@pytest.mark.slow
def test_43_a_compiled_model_trains_as_it_would(b: Worker) -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    there = copy.deepcopy(here).send(b)
    compiled = torch.compile(there, backend="eager")
    expected, optimizer = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (here, there))
    for _ in range(4):
        x = torch.randn(5, 3)
        for model, update, given in ((here, expected, x), (compiled, optimizer, x.send(b))):
            update.zero_grad()
            model(given).pow(2).mean().backward()
            update.step()
    del given
    optimizer.zero_grad()
    assert objs(b) == 4
    there.get()
    assert all(torch.allclose(p, q, rtol=1e-4) for p, q in zip(here.parameters(), there.parameters(), strict=True))
    assert "torch._dynamo" in sys.modules
    assert not [file for file in compiled_by_dynamo() if file.startswith(OURS)]


@pytest.mark.slow
def test_43_a_compiled_function_takes_both(b: Worker) -> None:
    @torch.compile(backend="eager")
    def loss(x: Tensor) -> Tensor:
        return (x * 2).relu().sum() + torch.zeros(())

    x = torch.tensor([-1.0, 2.0])
    p = x.send(b)
    assert loss(p).get() == loss(x) == loss(p * 1).get() == 4.0
    assert not [file for file in compiled_by_dynamo() if file.startswith(OURS)]
