"""A base that no owner trains: it is there once, whoever trains on it, and no number of a run is about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import cloister
from cloister.errors import ConfigurationError
from cloister.simulation import groups
from cloister.simulation.simulate import SimulationRun
from cloister.worker import flatten as deltas
from cloister.worker.data.rows import Arrays
from cloister.worker.training import train
from tests.rounding import assert_equal_within

WORDS, WIDTH = 40_000, 4


class Adapted(nn.Module):
    """A frozen table of more than 1 MiB, frozen positions, and a layer with an adapter of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(5, WIDTH)
        self.register_buffer("positions", torch.arange(5))
        self.norm = nn.LayerNorm(WIDTH)
        self.base = nn.Linear(WIDTH, 3)
        self.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, WIDTH))
        self.up = nn.Parameter(torch.zeros(3, 2))
        self.scaled = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, from the mean of the words."""
        seen = self.norm((self.table(x) + self.places(self.positions)).mean(1))
        return self.scaled(self.base(seen) + seen @ self.down.T @ self.up.T)  # type: ignore[no-any-return]


LEARNED = {"down", "up", "scaled.weight", "scaled.bias", "scaled.running_mean", "scaled.running_var"}


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


def adapted() -> Adapted:
    torch.manual_seed(3)
    return Adapted().double()


def owners(count: int = 6) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randint(WORDS, (10, 5), generator=generator) for _ in range(count)]
    return {str(at): (x, x.sum(1) % 3) for at, x in enumerate(rows)}


def ran(model: nn.Module | None = None, **options: Any) -> SimulationRun:
    given = {"owners": owners(), "optimizer": cloister.Adam(lr=0.01, eps=1e-3), "batch_size": 4, "rounds": 2}
    return cloister.simulate(model or adapted(), loss, **{**given, **options})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [cloister.FedAvg(), cloister.FedProx(mu=0.5), cloister.FedAdam(lr=0.1)])
def test_owners_who_share_a_base_train_together_as_alone(strategy: Any) -> None:
    together, alone = (ran(strategy=strategy, vectorise=vectorise) for vectorise in (True, False))
    assert together.vectorised  # a base for each would not be
    assert adapted().table.weight.nbytes > groups.LARGEST
    before, there = adapted().state_dict(), alone.model.state_dict()
    for name, value in together.model.state_dict().items():
        assert_equal_within(value, there[name], name=name)
        moved = not torch.equal(value, before[name])
        assert moved == (name in {*LEARNED, "scaled.num_batches_tracked"}), name


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_learned_and_knows_the_base(tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": cloister.FedAvgM()}
    whole = ran(rounds=3, **options)
    ran(rounds=1, checkpoint=tmp_path / "run", **options)
    assert (tmp_path / "run").stat().st_size < 1 << 16
    rest = ran(rounds=3, checkpoint=tmp_path / "run", **options).model.state_dict()
    assert all(torch.equal(value, rest[name]) for name, value in whole.model.state_dict().items())
    other = adapted()
    with torch.no_grad():
        other.table.weight[7, 1] += 1
    with pytest.raises(ConfigurationError, match="another model"):
        ran(other, rounds=4, checkpoint=tmp_path / "run", **options)


@pytest.mark.slow
def test_a_position_beyond_the_frozen_table_is_refused() -> None:
    model = adapted()
    model.positions[2] = 5
    with pytest.raises(cloister.errors.PlanError, match="embedding"):
        ran(model)


class Largest(TorchDispatchMode):
    """The most bytes that any operation but a view has made."""

    made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and looks at what it made."""
        found = func(*args, **(kwargs or {}))
        if not _has_values(found):
            return found
        given = {each.untyped_storage().data_ptr() for each in args if _has_values(each)}
        if found.untyped_storage().data_ptr() not in given:
            self.made = max(self.made, found.nbytes)
        return found


def _has_values(each: Any) -> bool:
    """Whether it is a tensor, and none of those by which shapes are found."""
    return isinstance(each, Tensor) and not isinstance(each, FakeTensor) and not each.is_meta


@pytest.mark.slow
def test_a_training_copies_what_it_learns_and_no_more() -> None:
    model = adapted()
    plan = loss.capture(model, example=(torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, dtype=torch.long)))
    data = Arrays(dict(zip("xy", owners(1)["0"], strict=True)))
    with Largest() as seen:
        found = train(
            plan,
            data,
            parameters=dict(model.named_parameters()),
            buffers=dict(model.named_buffers()),
            optimizer=cloister.SGD(lr=0.1),
            batch_size=4,
            local_epochs=1,
            seed=0,
        )
    assert 0 < seen.made < 1 << 16
    assert len(found.delta) == sum(each.numel() for name, each in model.state_dict().items() if name in LEARNED)
    assert set(found.others) == {"scaled.num_batches_tracked"}
    assert deltas.norm(found.delta) > 0
