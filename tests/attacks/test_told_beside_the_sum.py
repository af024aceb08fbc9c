"""Attack: learn of one record from anything but the sum that noise is on: what its owner says of a contribution,
whether it has one, why it has none, who is in the cohort, what others hear of that.

The study is in memory, with the state machines of both sides and the real training. It is run twice, and the second
time one record of bob's is another. Everything that anybody hears is then the same, but for what is made of the sum:
commitments, models, and what is hashed and signed of these. And those are the same where the record was not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.charter import Charter
from cloister.charter.jobs import Sampling
from cloister.errors import CloisterError
from cloister.ledger.job import Part, Tensors
from cloister.node.study import member as node
from cloister.node.study.trainer import Columns, Given, Order
from cloister.node.study.trainer_process import TrainerProcess
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from cloister.worker import flatten as deltas
from cloister.worker.data.poisson import draw
from cloister.worker.values import as_bytes, spec_of
from tests.attacks.gathering import Gathering, NodeOwner
from tests.support.owners import RECORD, agree

OWNERS = ("bob", "chuck", "dora")
"""Whose signatures are the same each time."""
ROWS, RATE, ROUNDS = 64, 0.5, 3
AT = 7
"""Bob's record."""


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy."""
    return {"loss": F.cross_entropy(model(x), y)}


@cache
def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(3, 2)


@cache
def plan() -> cloister.Plan:
    return loss.capture(model(), example=(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)))


FLOATS = deltas.floats_of(model())
LAYOUT = deltas.layout_of(FLOATS)
PARTS = tuple(Part(name, spec_of(FLOATS[name]), buffer=False) for name in sorted(FLOATS))
START = bytes(as_bytes(deltas.flatten(FLOATS, layout=LAYOUT)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def agreed(**changed: Any) -> Charter:
    job = {"plan": plan().digest, "rounds": ROUNDS, "batch_size": 32, "steps": 3, **changed.pop("job", {})}
    first = f'"{Tensors(PARTS).name_of(START).hex()}"'
    return agree(owners=OWNERS, first_model=first, job=job, **changed)


def drawn() -> Charter:
    """A charter whose noise hides records."""
    job = {"steps": 1, "optimizer": SGD(0.5), "sampling": Sampling(rate=RATE, rows=96)}
    return agreed(noise=RECORD, job=job)


class Trains(NodeOwner):
    """An owner's node that trains on a file."""

    def __init__(self, name: str, charter: Charter, columns: Columns) -> None:
        super().__init__(name, charter)
        self.process = TrainerProcess(Given(columns, models=()), memory_bytes=1 << 28, device="cpu")
        self.all_said: list[Any] = []
        self.draws: list[bytes] = []
        self.spoil = self._hear

    def _hear(self, message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        self.all_said += [message, body]
        return [(message, body)]

    def _train(self, order: node.Train) -> list[node.Effect]:
        self.draws += [order.draw.key] if order.draw is not None else []
        numbers = {
            name: getattr(order, name) for name in ("round", "seeds", "clip", "clip_buffers", "least", "hidden", "draw")
        }
        numbers |= {
            name: getattr(order.agreed, name) for name in ("optimizer", "batch_size", "steps", "proximal", "half")
        }
        try:
            asked = Order(job=len(order.job), home=0, home_bytes=0, **numbers)
            result, (made,) = self.process.train(asked, job=order.job, vector=bytearray(order.model))
        except CloisterError as fault:
            return self.member.failed(order.round, str(fault))
        said = {"examples": result.examples, "norms": result.norms, "metrics": result.metrics}
        return self.member.trained(order.round, as_bytes(made), **said)


def study(folder: Path, charter: Charter, record: tuple[float, int]) -> Gathering:
    """One that has run, in which bob's record is this: the value of its columns, and its label."""
    found = Gathering(charter, job={"plan": plan().encode(), "parts": PARTS, "constants": ()})
    generator = torch.Generator().manual_seed(5)
    for name in OWNERS:
        x, y = torch.randn(ROWS, 3, generator=generator), torch.randint(2, (ROWS,), generator=generator)
        if name == "bob":
            x[AT], y[AT] = record
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
        found.nodes[name] = Trains(name, charter, Columns("#mri", str(folder / f"{name}.npz"), ("x", "y")))
    found.parties |= found.nodes
    found.join()
    found.instance.say("rosa", w.Submit(len(found.data)), found.data + START)
    found.settle()
    return found


def heard(of: Gathering, *, bytes_too: bool = False) -> list[Any]:
    """Everything that owners said, and that anybody was told, message by message; of bytes, how many."""
    said = [each for name in OWNERS for each in of.nodes[name].all_said]  # type: ignore[attr-defined]
    everything = [*said, *(each for name in of.parties for each in of.said[name]), *of.instance.notes]
    return [each if bytes_too else _shape(msgspec.to_builtins(each, builtin_types=(bytes,))) for each in everything]


def _shape(said: Any) -> Any:
    if isinstance(said, bytes | memoryview):
        return len(said)
    if isinstance(said, dict):
        return {name: _shape(value) for name, value in said.items()}
    return [_shape(each) for each in said] if isinstance(said, list | tuple) else said


KINDS = {
    "far off": (1e6, 0),
    "infinite": (float("inf"), 1),
    "no number": (float("nan"), 0),
    "of a label that there is not": (0.5, 77),
    "nothing": (0.0, 0),
}
USUAL = (0.25, 1)
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.slow
@kinds
def test_without_noise_much_is_told_beside_the_update(kind: str, tmp_path: Path) -> None:
    """Its length, and why there is none."""
    one, other = (study(tmp_path, agreed(clip_buffers="1.0", limits=""), record) for record in (USUAL, KINDS[kind]))
    assert heard(one) != heard(other)


@pytest.mark.slow
@kinds
def test_with_noise_nothing_is_told_but_the_sum(kind: str, tmp_path: Path) -> None:
    one, other = (study(tmp_path, drawn(), record) for record in (USUAL, KINDS[kind]))
    assert one.instance.ledger.released == ROUNDS
    assert heard(one) == heard(other)
    assert heard(one, bytes_too=True) != heard(other, bytes_too=True), "the record was in no draw"


@pytest.mark.slow
@kinds
def test_of_a_record_that_was_not_drawn_nothing_is_told_at_all(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.worker.record_sums.draw", _without_it)
    one, other = (study(tmp_path, drawn(), record) for record in (USUAL, KINDS[kind]))
    assert heard(one, bytes_too=True) == heard(other, bytes_too=True)


def _without_it(rows: int, **numbers: Any) -> Any:
    """A draw that has the record fetched, and not drawn."""
    found = draw(rows, **numbers)
    return found._replace(rows=np.arange(len(found.rows)), drawn=found.drawn & (np.arange(len(found.rows)) != AT))
