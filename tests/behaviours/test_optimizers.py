"""Behaviour 38: what an optimizer remembers goes where the model goes."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from cloister import VirtualWorker
from cloister.errors import MoveError
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import Connect, objs

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.5, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=2),  # keeps lists of tensors
}


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, worker: Worker | None, times: int = 2) -> None:
    for _ in range(times):
        x = torch.randn(5, 3)
        there = x if worker is None else x.send(worker)

        def closure(there: Tensor = there) -> Tensor:
            optimizer.zero_grad()
            loss = model(there).pow(2).mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors_of(item)]


def places(optimizer: torch.optim.Optimizer) -> set[Worker | None]:
    """Where the optimizer's state is; None is here. Counts of steps are always here."""
    kept = [tensor for tensor in tensors_of(dict(optimizer.state)) if tensor.dim()]
    return {tensor.location if isinstance(tensor, PointerTensor) else None for tensor in kept}  # type: ignore[misc]


def saved(*parts: Any) -> list[Any]:
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    loaded: list[Any] = torch.load(file, weights_only=True)
    return loaded


def close_to(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.allclose(p, q, rtol=1e-4, atol=1e-6) for p, q in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_38_it_comes_home_and_nothing_is_left(b: Worker, a: Worker, name: str) -> None:
    here, model = made(), made()
    expected, optimizer = OPTIMIZERS[name](here.parameters()), OPTIMIZERS[name](model.parameters())
    torch.manual_seed(1)
    for _ in range(3):
        steps(here, expected, None)
    torch.manual_seed(1)
    steps(model.send(b), optimizer, b)
    model.get()
    optimizer.zero_grad()
    assert places(optimizer) <= {None}
    assert b.count().objects == b.count().nbytes == 0
    (weights, kept) = saved(model, optimizer)
    steps(model.send(a), optimizer, a)
    assert places(optimizer) <= {a}
    model.get()
    steps(model, optimizer, None)
    assert close_to(model, here)
    assert weights["0.weight"].shape == (4, 3)
    assert len(kept["state"]) == (0 if name == "sgd" else 1 if name == "lbfgs" else 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "adam", "lbfgs"])
def test_38_it_moves_and_nothing_is_left(b: Worker, a: Worker, name: str) -> None:
    here, model = made(), made().send(b)
    expected, optimizer = OPTIMIZERS[name](here.parameters()), OPTIMIZERS[name](model.parameters())
    torch.manual_seed(1)
    steps(here, expected, None, 4)
    torch.manual_seed(1)
    steps(model, optimizer, b)
    model.move(a)
    assert places(optimizer) == {a}
    optimizer.zero_grad()
    assert b.count().objects == b.count().nbytes == 0
    steps(model, optimizer, a)
    assert close_to(model.get(), here)


@pytest.mark.slow
def test_38_the_source_may_close(connect: Connect) -> None:
    b, a = connect("b"), connect("a")
    here, model = made(), made().send(b)
    expected, optimizer = OPTIMIZERS["adam"](here.parameters()), OPTIMIZERS["adam"](model.parameters())
    torch.manual_seed(1)
    for _ in range(3):
        steps(here, expected, None)
    torch.manual_seed(1)
    steps(model, optimizer, b)
    model.move(a)
    b.close()
    steps(model, optimizer, a)
    model.get()
    optimizer.zero_grad()
    a.close()
    steps(model, optimizer, None)
    assert close_to(model, here)
    _, state = saved(model, optimizer)
    assert all(each["step"] == 6 for each in state["state"].values())


@pytest.mark.slow
def test_38_a_parameter_that_moves_alone_takes_it_along(b: Worker, a: Worker) -> None:
    model = made().send(b)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, b)
    for parameter in model.parameters():
        parameter.move(a)
        assert optimizer.state[parameter]["exp_avg"].location is a
    optimizer.zero_grad()
    assert objs(b) == 0
    steps(model, optimizer, a)
    optimizer.zero_grad()
    assert objs(b) == 0


def test_38_several_optimizers_and_several_models(b: Worker, a: Worker) -> None:
    one, two = made().send(a), made().send(b)
    both = torch.optim.Adam([*one.parameters(), *two.parameters()])
    first = torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9)
    for model, worker in ((one, a), (two, b)):
        model(worker.ones(2, 3)).sum().backward()
    both.step()
    first.step()
    one.get()
    assert places(first) == {None}
    assert {type(both.state[p]["exp_avg"]) for p in one.parameters()} == {Tensor}
    assert {both.state[p]["exp_avg"].location for p in two.parameters()} == {b}
    two.move(a)
    assert {both.state[p]["exp_avg"].location for p in two.parameters()} == {a}
    both.zero_grad()
    assert objs(b) == 0
    two.get()
    assert places(both) == {None}
    assert objs(a) == 0


def test_38_a_module_takes_only_what_is_its_own(b: Worker) -> None:
    model = made().send(b)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, b)
    optimizer.zero_grad()
    model[0].get()
    moments = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    assert [isinstance(each, PointerTensor) for each in moments] == [False, False, True, True]


def test_38_an_optimizer_that_was_copied_or_loaded_and_never_stepped(b: Worker) -> None:
    model = made().send(b)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, b)
    optimizer.zero_grad()
    twin, copied = copy.deepcopy((model, optimizer))
    assert places(copied) == {b}
    restored = OPTIMIZERS["adam"](model.parameters())
    restored.load_state_dict(optimizer.state_dict())
    twin.get()
    model.get()
    assert places(copied) == places(optimizer) == places(restored) == {None}
    assert objs(b) == 0
    saved(copied, optimizer, restored)


def test_38_a_checkpoint_goes_on_at_the_worker(b: Worker) -> None:
    here, model = made(), made().send(b)
    expected, optimizer = OPTIMIZERS["adam"](here.parameters()), OPTIMIZERS["adam"](model.parameters())
    torch.manual_seed(1)
    steps(here, expected, None)
    weights, kept = saved(here, expected)
    model.load_state_dict(weights)
    optimizer.load_state_dict(kept)
    model.get()  # before any step: what was loaded is at no worker yet
    saved(optimizer)
    model.send(b)
    torch.manual_seed(2)
    steps(here, expected, None)
    torch.manual_seed(2)
    steps(model, optimizer, b)
    assert close_to(model.get(), here)


@pytest.mark.slow
def test_38_what_nobody_holds_is_not_brought(b: Worker) -> None:
    model = made().send(b)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, b)
    model.zero_grad()
    assert objs(b) == 12
    del optimizer
    gc.collect()
    assert objs(b) == 4
    model.get()
    assert objs(b) == 0


def test_38_an_average_of_the_weights(b: Worker) -> None:
    model = made().send(b)
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for _ in range(2):
        steps(model, optimizer, b, 1)
        average.update_parameters(model)
    optimizer.zero_grad()
    model.get()
    average.get()
    assert objs(b) == 0
    saved(model, average, optimizer)


def test_38_where_no_push_is_possible_it_goes_through_here(b: Worker, c: Worker, kind: str) -> None:
    """c's node knows no address of b's; to a worker in this process nobody can push at all."""
    target: Worker = b if kind == "tls" else VirtualWorker(id="b")
    if kind != "tls":
        target._channel.network = "elsewhere"  # type: ignore[attr-defined]
    here, model = made(), made().send(c)
    expected, optimizer = OPTIMIZERS["adam"](here.parameters()), OPTIMIZERS["adam"](model.parameters())
    torch.manual_seed(1)
    steps(here, expected, None, 4)
    torch.manual_seed(1)
    steps(model, optimizer, c)
    optimizer.zero_grad()
    if kind == "tls":
        with pytest.raises(MoveError):
            model.move(target)
        assert places(optimizer) == {c}
        for parameter in model.parameters():  # by hand, so that the state is still there at the next step
            parameter.data = parameter.detach().get(keep=True).send(target)
    else:
        model.move(target)
    steps(model, optimizer, target)
    assert places(optimizer) == {target}
    optimizer.zero_grad()
    assert objs(c) == 0
    assert close_to(model.get(), here)


def test_38_it_takes_no_round_trip_of_its_own(b: Worker) -> None:
    model = made().send(b)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    steps(model, optimizer, b)
    asked = 0
    ask = b._channel.ask

    def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return ask(*args)

    b._channel.ask = counted  # type: ignore[method-assign]
    try:
        model.get()
    finally:
        del b._channel.ask
    assert asked == 1
