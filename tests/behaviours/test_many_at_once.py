"""Behaviour 40: ``foreach=True``, averaged models, and ``out=``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from cloister import PointerTensor
from cloister.errors import CloisterError, NotColocatedError, OpRefusedError, PointerAssignmentError
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import objs

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"lr": 0.1},
    "AdamW": {"lr": 0.1, "amsgrad": True},
    "RMSprop": {"lr": 0.1, "momentum": 0.5, "centered": True},
    "Adagrad": {"lr": 0.1},
    "Adadelta": {},
    "Adamax": {},
    "ASGD": {},
    "NAdam": {},
    "RAdam": {},
    "Rprop": {},
}


def assert_same(there: nn.Module, here: nn.Module) -> None:
    """That a module that came back holds what the other one does, but for rounding."""
    for (name, got), expected in zip(there.state_dict().items(), here.state_dict().values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_40_optimizers_with_foreach(b: Worker, name: str) -> None:
    here = nn.Sequential(nn.Linear(3, 2), nn.PReLU(), nn.Linear(2, 2))
    there = copy.deepcopy(here).send(b)
    make = getattr(torch.optim, name)
    for model in (here, there):
        torch.manual_seed(1)
        optimizer = make(model.parameters(), foreach=True, **OPTIMIZERS[name])
        for _ in range(3):
            x = torch.randn(4, 3)
            optimizer.zero_grad()
            model(x if model is here else x.send(b)).square().sum().backward()
            optimizer.step()
    assert_same(there.get(), here)


def test_40_lists_of_tensors_at_several_workers(b: Worker, a: Worker) -> None:
    p, q = torch.ones(2).send(b), torch.ones(3).send(a)
    torch._foreach_add_([p, q], 1.0)
    doubled = torch._foreach_mul([p, q], [2.0, 3.0])
    assert [t.location for t in doubled] == [b, a]
    assert [t.get().tolist() for t in doubled] == [[4.0, 4.0], [6.0, 6.0, 6.0]]
    with pytest.raises(NotColocatedError):
        torch._foreach_add([p], [torch.ones(2)])
    with pytest.raises(OpRefusedError, match="get"):
        torch._foreach_addcdiv([p], [p], [p], b.ones(1))


@pytest.mark.slow
@pytest.mark.parametrize("foreach", [True, False, None])
def test_40_clipping_with_foreach(b: Worker, foreach: bool | None) -> None:
    here = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    there = copy.deepcopy(here).send(b)
    x = torch.randn(4, 3)
    norms = []
    for model in (here, there):
        model(x if model is here else x.send(b)).square().sum().mul(10).backward()
        parameters = list(model.parameters())
        norms += [clip_grad_norm_(parameters, 0.5, foreach=foreach)]
        norms += [get_total_norm([parameter.grad for parameter in parameters], foreach=foreach)]
        clip_grad_value_(parameters, 0.1, foreach=foreach)
    torch.testing.assert_close(norms[2].get(), norms[0])
    torch.testing.assert_close(norms[3].get(), norms[1])
    for got, expected in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(got.grad.get(), expected.grad)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_40_fused_optimizers_are_refused_in_words(b: Worker, make: Callable[..., torch.optim.Optimizer]) -> None:
    model = nn.Linear(2, 1).send(b)
    model(b.ones(1, 2)).sum().backward()
    with pytest.raises(OpRefusedError, match="fused"):
        make(model.parameters(), lr=0.1, fused=True).step()
    local = nn.Linear(2, 1)
    optimizer = make(local.parameters(), lr=0.1, fused=True)  # here it may be
    optimizer.zero_grad()
    local(torch.ones(1, 2)).sum().backward()
    before = local.weight.detach().clone()
    local.send(b)
    with pytest.raises(OpRefusedError, match="fused"):
        optimizer.step()
    assert torch.equal(local.get().weight, before)


AVERAGES: dict[str, dict[str, Any]] = {
    "mean": {},
    "swa": {"multi_avg_fn": get_swa_multi_avg_fn()},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "ema with buffers": {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AVERAGES)
def test_40_averaged_models(b: Worker, name: str) -> None:
    here = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    there = copy.deepcopy(here).send(b)
    x = torch.randn(4, 3)
    averages = []
    for model in (here, there):
        average = AveragedModel(model, **AVERAGES[name])
        for _ in range(3):
            model(x if model is here else x.send(b))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.5)
            average.update_parameters(model)
        averages.append(average)
    assert_same(averages[1].get(), averages[0])


# out=

OUT: dict[str, Callable[[torch.Tensor, Callable[..., torch.Tensor]], Any]] = {
    "add": lambda p, made: torch.add(p, p, alpha=2, out=made(3, 3)),
    "add a number": lambda p, made: torch.add(p, 1, out=made(3, 3)),
    "matmul": lambda p, made: torch.matmul(p, p, out=made(3, 3)),
    "mm": lambda p, made: torch.mm(p, p, out=made(3, 3)),
    "cat": lambda p, made: torch.cat([p, p], out=made(6, 3)),
    "sum": lambda p, made: torch.sum(p, 0, out=made(3)),
    "clamp": lambda p, made: torch.clamp(p, 0, 0.5, out=made(3, 3)),
    "sort": lambda p, made: torch.sort(p, out=(made(3, 3), made(3, 3, dtype=torch.long))),
    "max": lambda p, made: torch.max(p, 0, out=(made(3), made(3, dtype=torch.long))),
    "eigh": lambda p, made: torch.linalg.eigvalsh(p @ p.T, out=made(3)),
    "another type that can hold it": lambda p, made: torch.mul(p, 2, out=made(3, 3, dtype=torch.double)),
    "an empty one": lambda p, made: torch.add(p, p, out=made(0)),
    "into a row": lambda p, made: torch.sum(p, 0, out=made(2, 3)[1]),
    "zeros": lambda p, made: torch.zeros(3, 3, out=made(3, 3)),
    "arange": lambda p, made: torch.arange(3, out=made(3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OUT)
def test_40_out_is_what_it_is_locally(b: Worker, name: str) -> None:
    x = torch.randn(3, 3)
    expected, got = OUT[name](x, torch.ones), OUT[name](x.send(b), b.ones)
    for t, p in zip(*(value if isinstance(value, tuple) else (value,) for value in (expected, got)), strict=True):
        assert isinstance(p, PointerTensor)
        assert p.dtype is t.dtype
        assert p.shape == t.shape
        torch.testing.assert_close(p.get(), t)


def test_40_out_is_the_very_tensor_that_was_given(b: Worker) -> None:
    p, target, empty = b.ones(2), b.zeros(2), b.zeros(0)
    assert torch.add(p, 1, out=target) is target
    assert torch.add(p, 1, out=empty) is empty
    assert target.tolist() == empty.tolist() == [2.0, 2.0]
    assert objs(b) == 3
    torch.randn(2, out=target)
    assert target.tolist() != [2.0, 2.0]


def test_40_out_that_does_not_fit_is_refused_and_unwritten(b: Worker, a: Worker) -> None:
    p = b.ones(2)
    target, whole, local, there = b.zeros(3), b.zeros(2, dtype=torch.long), torch.zeros(2), a.zeros(2)
    with pytest.raises(PointerAssignmentError, match="shape"):
        torch.add(p, 1, out=target)
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.add(p, 1, out=whole)
    with pytest.raises(NotColocatedError, match="local"):
        torch.add(p, 1, out=local)
    with pytest.raises(NotColocatedError):
        torch.add(p, 1, out=there)
    with pytest.raises(NotColocatedError):
        torch.add(local, 1, out=p)
    with pytest.raises(CloisterError):  # the second of two does not fit, so the first is not written either
        torch.max(p.expand(2, 2), 0, out=(target[:2], b.zeros(3, dtype=torch.long)))
    assert target.tolist() == [0.0, 0.0, 0.0]
    assert whole.tolist() == [0, 0]
    assert local.tolist() == there.tolist() == [0.0, 0.0]
    assert p.tolist() == [1.0, 1.0]
