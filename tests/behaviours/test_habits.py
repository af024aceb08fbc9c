"""Behaviours 40, 42 and 43: what PyTorch raises is raised, and what other software taught is answered in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from cloister import PointerTensor
from cloister.errors import (
    ConfigurationError,
    NotColocatedError,
    OpRefusedError,
    PointerAssignmentError,
    PointerNotPortableError,
    RemoteOpError,
)
from cloister.tensor.worker import Worker
from tests.behaviours.conftest import objs

# PyTorch's own, at its first forward differentiation.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

# Exceptions.

WRONG: dict[str, Callable[[torch.Tensor], object]] = {
    "a view of what is not contiguous": lambda p: p.t().view(-1),
    "a view of another size": lambda p: p.view(5),
    "an index out of range": lambda p: p[5],
    "a product of bools": lambda p: p.bool() @ p.bool(),
    "a decomposition in half": lambda p: torch.linalg.qr(p.half())[0],
    "minus bool": lambda p: -p.bool(),
    "no Cholesky factor": lambda p: torch.linalg.cholesky(p * 0 - 1),
    "no inverse": lambda p: torch.linalg.inv(p * 0),
    "no solution": lambda p: torch.linalg.solve(p * 0, p),
    "no spectrum": lambda p: torch.linalg.eigvalsh(p * torch.nan),
    "a class too high": lambda p: F.one_hot((p * 0 + 3).long(), 3),
    "a class too low": lambda p: F.one_hot((p * 0 - 1).long(), 3),
    "a class that is no number": lambda p: F.one_hot(p, 3),
    "no class at all": lambda p: F.one_hot(p[:0].long()),
    "backward twice": lambda p: [total.backward() for total in [p.clone().requires_grad_().square().sum()] * 2],
    "a value that backward needs is gone": lambda p: _changed(p).backward(),
    "the same for grad": lambda p: torch.autograd.grad(_changed(p), p),
}


def _changed(p: torch.Tensor) -> torch.Tensor:
    p.requires_grad_()
    saved = p.exp()
    total = (saved * saved).sum()
    saved.add_(1)
    return total


# A gradient is in no inference.
RAISED = [(name, torch.enable_grad) for name in WRONG] + [
    (name, torch.inference_mode) for name in WRONG if "backward" not in name and "grad" not in name
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), RAISED, ids=lambda value: getattr(value, "__name__", value))
def test_42_what_pytorch_raises_is_raised(b: Worker, name: str, mode: Callable[[], object]) -> None:
    def ends(x: torch.Tensor) -> Exception:
        with pytest.raises(Exception) as found, mode():  # type: ignore[attr-defined]  # noqa: PT011, PT012
            result = WRONG[name](x)
            if isinstance(result, PointerTensor):
                result.get()
        return found.value

    x = torch.eye(3)
    expected, got = ends(x.clone()), ends(x.send(b))
    assert isinstance(got, type(expected)), f"{expected!r} and {got!r}"
    assert "lazy" not in str(got).lower()
    if isinstance(got, RemoteOpError):
        assert torch.ones(1).send(b).get() == 1  # the session lives on


def test_40_one_hot(b: Worker) -> None:
    x = torch.tensor([[0, 2], [1, 1]])
    for count in (3, 5, -1):
        for mode in (torch.enable_grad, torch.inference_mode):
            with mode():
                assert torch.equal(F.one_hot(x.send(b), count).get(), F.one_hot(x, count))
    assert F.one_hot(x[:0].send(b), 3).shape == (0, 2, 3)


MEMORY: dict[str, Callable[[torch.Tensor], object]] = {
    "storage": lambda p: p.storage(),
    "untyped_storage": lambda p: p.untyped_storage(),
    "data_ptr": lambda p: p.data_ptr(),
    "dlpack": lambda p: p.__dlpack__(),
    "pin_memory": lambda p: p.pin_memory(),
    "share_memory_": lambda p: p.share_memory_(),
}


@pytest.mark.parametrize("name", MEMORY)
def test_42_a_pointer_has_no_memory(b: Worker, name: str) -> None:
    with pytest.raises(PointerNotPortableError, match="no memory here"):
        MEMORY[name](b.ones(2))


def test_42_numbers_of_pointers_make_a_tensor(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b)
    assert torch.equal(torch.tensor([p[0], p[1]]), torch.tensor([1.0, 2.0]))
    assert not p.is_pinned()


# Differentiation in other ways.

FUNCTIONAL: dict[str, Callable[[torch.Tensor], object]] = {
    "grad": lambda p: torch.func.grad(lambda x: x.sin().square().sum())(p),
    "vmap": lambda p: torch.func.vmap(lambda x: x @ x)(p),
    "jacrev": lambda p: torch.func.jacrev(lambda x: x.square().sum(0))(p),
    "jacfwd": lambda p: torch.func.jacfwd(lambda x: x.square().sum(0))(p),
    "hessian": lambda p: torch.func.hessian(lambda x: x.pow(3).sum())(p[0]),
    "jvp": lambda p: torch.func.jvp(lambda x: x.sin() @ x, (p,), (torch.ones_like(p),)),
    "jvp along what lies otherwise": lambda p: torch.func.jvp(torch.sin, (p,), (p.t(),)),
    "vjp": lambda p: torch.func.vjp(lambda x: x.sin() @ x, p)[1](torch.ones_like(p)),
    "an example's gradient": lambda p: torch.func.vmap(torch.func.grad(lambda w, x: (w @ x).sin()), (None, 0))(p[0], p),
    "double": lambda p: torch.autograd.functional.hvp(lambda x: x.pow(3).sum(), p, torch.ones_like(p)),
    "forward mode": lambda p: _dual(p, torch.ones_like(p)),
}


def _dual(p: torch.Tensor, tangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(p, tangent)
        return tuple(forward_ad.unpack_dual((dual * dual).sum(0)))


def flat(value: object) -> list[torch.Tensor]:
    """The tensors in what a function returned, here."""
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in flat(item)]
    assert isinstance(value, torch.Tensor)
    return [value.get() if isinstance(value, PointerTensor) else value]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONAL)
def test_40_differentiation_by_functions(b: Worker, name: str) -> None:
    x = torch.randn(3, 3)
    got = FUNCTIONAL[name](x.send(b))
    for p, t in zip(flat(got), flat(FUNCTIONAL[name](x)), strict=True):
        torch.testing.assert_close(p, t, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_40_a_tangent_in_another_place_is_refused(b: Worker) -> None:
    with pytest.raises(NotColocatedError):
        _dual(b.ones(2), torch.ones(2))


# torch.autocast.


@pytest.mark.parametrize("device", ["cpu", "pointer"])
def test_43_autocast_says_that_it_does_not_work(b: Worker, device: str) -> None:
    model, p = nn.Linear(3, 2).send(b), b.ones(2, 3)
    before = model(p).get()
    kind = p.device.type if device == "pointer" else device
    with pytest.raises(OpRefusedError, match="autocast does not reach workers"), torch.autocast(kind):
        model(p)
    with torch.autocast(kind, enabled=False):
        assert torch.equal(model(p).get(), before)
    assert torch.equal(model(p).get(), before)


def test_43_within_autocast_values_travel_and_local_tensors_compute(b: Worker) -> None:
    x = torch.ones(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = x.send(b)
        assert p[0].bfloat16().get().dtype is torch.bfloat16
        assert (x @ x.T).dtype is torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert (p @ p.t()).get().dtype is torch.float32
        with pytest.raises(OpRefusedError, match="autocast"):
            p @ p.t()
    assert (p @ p.t()).get().dtype is torch.float32


# torch.compile.


@pytest.mark.slow
def test_43_the_compiler_traces_none_of_our_code(b: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo import symbolic_convert

    traced: list[str] = []
    begin = symbolic_convert.InstructionTranslatorBase.__init__

    def noted(self: object, *args: object, **named: object) -> None:
        begin(self, *args, **named)
        traced.append(self.f_code.co_filename)  # type: ignore[attr-defined]

    monkeypatch.setattr(symbolic_convert.InstructionTranslatorBase, "__init__", noted)
    x = torch.randn(4, 3)
    here = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    there = here.copy().send(b)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model, inputs in ((here, x), (there, x.send(b))):
            compiled = torch.compile(model, backend="eager")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                compiled(inputs).square().mean().backward()
                optimizer.step()
        p = x.send(b)
        doubled = torch.compile(lambda t: (t * 2).relu(), backend="eager")(p)
        assert torch.equal(torch.compile(lambda t: (t * 2).get(), backend="eager")(p), x * 2)
    assert traced, "the compiler was at work"
    assert not [file for file in traced if "cloister" in file and "tests" not in file]
    assert torch.equal(doubled.get(), (x * 2).relu())
    torch.testing.assert_close(list(there.get().parameters()), list(here.parameters()), rtol=1e-4, atol=1e-6)
    del compiled, optimizer, inputs, model
    torch.compiler.reset()
    assert objs(b) == 1


# PySyft 0.2.


def test_43_several_workers_or_a_name_are_answered(b: Worker, a: Worker) -> None:
    x = torch.ones(2)
    for send in (lambda: x.send(b, a), lambda: x.send(b, a, b)):
        with pytest.raises(ConfigurationError, match=r"\[x\.send\(worker\) for worker in"):
            send()
    with pytest.raises(ConfigurationError, match="VirtualWorker"):
        x.send("bob")
    model = nn.Linear(2, 1)
    for send in (lambda: model.send(b, a), lambda: model.send("bob")):
        with pytest.raises(ConfigurationError, match=r"model\.copy\(\)\.send\(worker\)"):
            send()
    with pytest.raises(PointerAssignmentError, match="move"):
        x.send(b).send(a)
    assert objs(b) == objs(a) == 0


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("tag", "tags="),
        ("describe", "tags="),
        ("fix_precision", "study"),
        ("fix_prec", "study"),
        ("share", "study"),
        ("federate", "send"),
        ("child", "location"),
        ("owner", "location"),
        ("id_at_location", "search"),
        ("get_tensor", "keep=True"),
    ],
)
def test_43_what_is_missing_says_what_to_write(b: Worker, name: str, instead: str) -> None:
    for tensor in (torch.ones(2), b.ones(2)):
        if name in vars(type(tensor)):
            continue  # a pointer has it
        assert not hasattr(tensor, name)
        with pytest.raises(AttributeError, match=instead):
            getattr(tensor, name)
    own = torch.ones(1)
    setattr(own, name, 5)  # a script's own attributes go first
    assert getattr(own, name) == 5


@pytest.mark.parametrize("name", ["clear_objects", "objects_count", "_objects", "add_worker", "fit"])
def test_43_workers_say_it_too(b: Worker, name: str) -> None:
    assert not hasattr(b, name)
    with pytest.raises(AttributeError, match=f"has no attribute '{name}': "):
        getattr(b, name)


def test_43_what_makes_sense_works(b: Worker) -> None:
    p = torch.tensor([1.0, 2.0]).send(b)
    q = p.copy()
    q.add_(1)
    assert p.get().tolist() == [1.0, 2.0]
    assert q.get().tolist() == [2.0, 3.0]
    model = nn.Linear(2, 1)
    again = model.send(b).get().copy()
    assert torch.equal(again.weight, model.weight)
    with nullcontext(b.ones(1)) as born:
        assert born.location is b
