"""Random numbers come from the seed that is sent with an operation, and from nothing else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from cloister import VirtualWorker
from cloister.worker.seeding import seeded
from tests.worker.sessions import Session

CPU = torch.device("cpu")
DRAWS: dict[str, tuple[str, list[Any]]] = {
    "randn": ("aten::randn", [[64]]),
    "rand": ("aten::rand", [[64]]),
    "randint": ("aten::randint", [1000, [64]]),
    "randperm": ("aten::randperm", [64]),
    "bernoulli": ("aten::bernoulli.p", ["x", 0.5]),
    "multinomial": ("aten::multinomial", ["x", 32, True]),
    "poisson": ("aten::poisson", ["x"]),
    "normal": ("aten::normal.Tensor_float", ["x"]),
}


def draw(session: Session, name: str, seed: int) -> torch.Tensor:
    op, args = DRAWS[name]
    x = session.put(torch.full((64,), 5.0 if name == "poisson" else 0.5))
    return session.fetch(session.call(op, *[x if arg == "x" else arg for arg in args], seed=seed))


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_seed_gives_the_same_numbers_in_every_session(name: str) -> None:
    first, again, other = draw(Session(), name, 3), draw(Session(), name, 3), draw(Session(), name, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", [0, -1, (1 << 63) - 1, -(1 << 63)])
def test_any_64_bits_are_a_seed(seed: int) -> None:
    assert torch.equal(draw(Session(), "randn", seed), draw(Session(), "randn", seed))


@pytest.mark.parametrize("name", DRAWS)
def test_the_process_own_generator_is_left_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    draw(Session(), name, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_also_when_the_operation_fails() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1, CPU):
        torch.rand(3) @ torch.rand(4)
    session = Session()
    session.fault("aten::multinomial", session.put(torch.zeros(3)), 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_one_session_draws_tells_nothing_of_what_another_did() -> None:
    """A shared generator could be listened to: its next numbers show how many were drawn before."""
    quiet, listener = Session(), Session()
    expected = draw(listener, "randn", 9)
    for _ in range(3):
        draw(quiet, "randn", 5)
    assert torch.equal(draw(listener, "randn", 9), expected)
    torch.manual_seed(77)
    assert torch.equal(draw(listener, "randn", 9), expected)


def test_an_operation_in_place_and_one_without_a_generator_argument() -> None:
    def run(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        session = Session()
        x = session.put(torch.ones(64))
        dropped, _ = session.call("aten::native_dropout", x, 0.5, True, outs=2, seed=seed)
        session.call("aten::uniform_", x, outs=0, seed=seed)
        return session.fetch(dropped), session.fetch(x)

    first, again, other = run(1), run(1), run(2)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_threads_do_not_disturb_each_other() -> None:
    """Two workers of one process, each used by a thread of its own."""
    expected = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    numbers = [torch.randn(5000, generator=generator) for generator in expected]
    wrong: list[int] = []
    start = threading.Barrier(2)

    def use(seed: int) -> None:
        session = Session()
        start.wait()
        for _ in range(100):
            made = session.call("aten::randn", [5000], seed=seed)
            if not torch.equal(session.fetch(made), numbers[seed - 1]):
                wrong.append(seed)
            session.free(made)

    before = torch.get_rng_state()
    threads = [threading.Thread(target=use, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(torch.get_rng_state(), before)


def test_each_operation_has_a_seed_of_its_own_and_manual_seed_reproduces_them() -> None:
    bob = VirtualWorker(id="bob")

    def run() -> list[torch.Tensor]:
        torch.manual_seed(5)
        drawn: list[Any] = [bob.randn(8), bob.randn(8), torch.nn.functional.dropout(bob.ones(64))]
        return [pointer.get() for pointer in drawn]

    first, again = run(), run()
    assert not torch.equal(first[0], first[1])
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
