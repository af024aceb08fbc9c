"""Behaviour 39: ``model.to`` and its like, and that nothing comes home unasked inside a sent module's forward."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cloister.errors import ImplicitDownloadError, OpRefusedError, PointerAssignmentError
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import objs

HOME: dict[str, Callable[[nn.Module], nn.Module]] = {
    'to("cpu")': lambda model: model.to("cpu"),
    "to(device)": lambda model: model.to(torch.device("cpu")),
    "to(device=)": lambda model: model.to(device="cpu", non_blocking=True),
    "to(local)": lambda model: model.to(torch.zeros(1)),
    "cpu()": lambda model: model.cpu(),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    model(x).pow(2).mean().backward()
    optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("way", HOME)
def test_39_to_the_cpu_is_get_and_the_optimizer_goes_on(b: Worker, way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    here = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer, expected = (torch.optim.Adam(m.parameters(), lr=0.1) for m in (model, here))
    x = torch.randn(5, 3)
    model.send(b)
    step(model, optimizer, x.send(b))
    assert HOME[way](model) is model
    assert all(p is q and isinstance(p, nn.Parameter) for p, q in zip(parameters, model.parameters(), strict=True))
    assert not any(isinstance(t, PointerTensor) for t in model.state_dict().values())
    assert optimizer.state[model[0].weight]["exp_avg"].device.type == "cpu"
    optimizer.zero_grad()
    assert objs(b) == 0
    for _ in range(2):
        step(model, optimizer, x)
    for _ in range(3):
        step(here, expected, x)
    assert all(torch.allclose(p, q, rtol=1e-4) for p, q in zip(model.parameters(), here.parameters(), strict=True))
    assert torch.zeros(2).add(model(x).detach()).device.type == "cpu"  # its forward makes its tensors here again


def test_39_part_of_a_module_comes_home_alone(b: Worker) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).send(b)
    model[1].cpu()
    assert [isinstance(part.weight, PointerTensor) for part in model] == [True, False]
    model.to("cpu", torch.float64)
    assert model[0].weight.dtype == model[1].weight.dtype == torch.float64
    assert objs(b) == 0


CONVERTED: dict[str, tuple[Callable[[nn.Module], nn.Module], torch.dtype]] = {
    "double()": (lambda model: model.double(), torch.float64),
    "half()": (lambda model: model.half(), torch.float16),
    "bfloat16()": (lambda model: model.bfloat16(), torch.bfloat16),
    "to(dtype)": (lambda model: model.to(torch.float64), torch.float64),
    "type(dtype)": (lambda model: model.type(torch.float64), torch.float64),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", CONVERTED)
def test_39_another_element_type_keeps_the_parameters(b: Worker, way: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LSTM(2, 2, batch_first=True)).send(b)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    convert, dtype = CONVERTED[way]
    convert(model)
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))
    before = model[0].weight.detach().clone()
    model[1](model[0](b.ones(1, 4, 3, dtype=dtype)))[0].sum().backward()
    optimizer.step()
    assert bool((model[0].weight != before).any())
    model.get()
    assert all(p is q and p.dtype is dtype for p, q in zip(parameters, model.parameters(), strict=True))


def test_39_to_where_a_pointer_is(b: Worker, a: Worker) -> None:
    p, model = b.ones(2, 3), nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(PointerAssignmentError, match=r"model\.send\(worker\)") as refused:
        model.to(p.device)
    assert "lazy" not in str(refused.value)
    assert type(model.weight) is nn.Parameter
    model.to(p)
    assert optimizer.param_groups[0]["params"][0] is model.weight
    assert model.weight.location is b
    step(model, optimizer, p)
    assert model.to(p.device) is model  # where it is already: as a library's forward says it
    assert nn.ReLU().to(p.device)(p).location is b
    model.get()
    made = nn.Linear(3, 1, device=p.device).send(b)  # made as a library makes it: at no worker, until it is sent
    assert made.weight.location is b
    assert type(made.get().weight) is nn.Parameter


ELSEWHERE: dict[str, Callable[[Any], object]] = {
    'to("cuda")': lambda each: each.to("cuda"),
    "to(cuda:0)": lambda each: each.to(torch.device("cuda", 0)),
    'to("mps")': lambda each: each.to("mps"),
    'to(device="meta")': lambda each: each.to(device="meta"),
    "cuda()": lambda each: each.cuda(),
    "xpu()": lambda each: each.xpu(),
}


@pytest.mark.parametrize("way", ELSEWHERE)
def test_39_another_device_is_refused_in_words(b: Worker, way: str) -> None:
    for each in (b.ones(2), nn.Linear(2, 1).send(b)):
        with pytest.raises(OpRefusedError, match="its owner's choice"):
            ELSEWHERE[way](each)


def test_39_outside_of_a_forward_a_pointer_comes_home_when_asked(b: Worker) -> None:
    p, local = torch.tensor([1.0, 2.0]).send(b), torch.zeros(2)
    assert torch.equal(p.cpu(), p.to("cpu"))
    assert p.to("cpu", torch.float64).dtype is torch.float64
    local.copy_(p)
    assert local.tolist() == p.tolist() == [1.0, 2.0]


LIBRARY = """
def on_the_cpu(x):
    return x.to("cpu")
"""


class Asks(nn.Module):
    """Does something with its input inside of ``forward``."""

    def __init__(self, act: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        self.act(out)
        return out


UNASKED: dict[str, Callable[[Tensor], object]] = {
    "cpu()": lambda x: x.cpu(),
    'to("cpu")': lambda x: x.to("cpu"),
    "to(local)": lambda x: x.to(KEPT),
    "copy_": lambda x: KEPT.copy_(x),
    "setitem": lambda x: KEPT.__setitem__(0, x[0]),
    "module.cpu()": lambda x: nn.Linear(2, 2).to(x).cpu(),
    "in inference": lambda x: torch.inference_mode()(lambda: x.cpu())(),
    "in a part": lambda x: Asks(lambda y: y.cpu()).to(x)(x),
}
KEPT = torch.zeros(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("way", UNASKED)
def test_39_nothing_comes_home_unasked_inside_a_forward(b: Worker, way: str) -> None:
    x, model = b.ones(2, 2), Asks(UNASKED[way]).send(b)
    with pytest.raises(ImplicitDownloadError, match=r"^test_conversions\.py, line \d+ would .* home from b"):
        model(x)
    assert KEPT.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert x.cpu().tolist() == [[1.0, 1.0], [1.0, 1.0]]  # the forward is over, and so is its rule
    model.act = lambda y: None
    assert model(x).shape == (2, 2)


def test_39_a_library_that_asks_is_named_with_the_line_of_the_script(b: Worker, tmp_path: Path) -> None:
    file = tmp_path / "site-packages" / "helpful.py"
    file.parent.mkdir()
    file.write_text(LIBRARY, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("helpful", file)
    assert spec is not None
    assert spec.loader is not None
    helpful = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpful)
    model = Asks(lambda x: helpful.on_the_cpu(x)).send(b)
    with pytest.raises(ImplicitDownloadError, match=r"^helpful\.py, line 3, reached from test_conversions\.py, line"):
        model(b.ones(1, 2))


def test_39_what_is_asked_for_comes_home_inside_a_forward(b: Worker) -> None:
    seen: list[Any] = []

    def look(x: Tensor) -> None:
        seen.append((x.sum().item(), bool((x > 0).any()), x.get(keep=True).shape, len(x.tolist())))  # type: ignore[call-arg]

    Asks(look).send(b)(b.ones(1, 2))
    assert seen[0][2:] == ((1, 2), 1)


def test_39_a_module_that_is_here_may_do_as_it_likes() -> None:
    assert Asks(lambda x: x.cpu())(torch.ones(1, 2)).shape == (1, 2)
