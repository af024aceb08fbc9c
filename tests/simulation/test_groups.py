"""Owners who train together come to what they come to alone; who does not is told why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import PlanError, TrainingError
from cloister.simulation import groups
from cloister.simulation.simulate import SimulationRun
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.rows import Arrays
from cloister.worker.optimizers import CosineDecay, Optimizer, StepDecay
from cloister.worker.plans import PlannedLoss
from tests.rounding import assert_equal_within

SIZES = (20, 7, 20, 20, 7, 7, 20, 7, 20, 5)


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    parts = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*parts, nn.Linear(8, 3)).double()


def owners(sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    inputs = [torch.randn(rows, 6, generator=generator, dtype=torch.float64) for rows in sizes]
    return {f"owner {at}": (x, (x @ true).argmax(1)) for at, x in enumerate(inputs)}


def ran(*, vectorise: bool, **options: Any) -> SimulationRun:
    given = {"owners": owners(), "optimizer": cloister.SGD(lr=0.1), "batch_size": 8, "rounds": 2, "seed": 5, **options}
    trained = given.pop("model", None) or model()
    return cloister.simulate(trained, given.pop("loss", loss), vectorise=vectorise, **given)


def assert_close(run: SimulationRun, other: SimulationRun) -> None:
    """Within what the order of sums may change in float64; counters, and metrics as printed, alike."""
    there = other.model.state_dict()
    for name, value in run.model.state_dict().items():
        assert_equal_within(value, there[name], name=name)
    for here, alone in zip(run.history, other.history, strict=True):
        assert (here.owners, here.examples) == (alone.owners, alone.examples)
        assert here.metrics == pytest.approx(alone.metrics, rel=1e-5)


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": cloister.SGD(lr=0.1, weight_decay=1e-3),
    "momentum": cloister.SGD(lr=0.05, momentum=0.9, nesterov=True, schedule=StepDecay(every=2, factor=0.5)),
    "adam": cloister.Adam(lr=0.01, eps=1e-3, schedule=CosineDecay(steps=9)),
    "adamw": cloister.AdamW(lr=0.01, eps=1e-3, amsgrad=True),
    "clipped": cloister.SGD(lr=0.5, momentum=0.5, clip_norm=0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_together_is_as_alone(optimizer: str) -> None:
    options = {"optimizer": OPTIMIZERS[optimizer], "local_epochs": 2}
    together, alone = (ran(vectorise=vectorise, **options) for vectorise in (True, False))
    assert_close(together, alone)
    assert dict(together.replayed) == {"fewer than 4 have as many rows": 2}  # the one of 5 rows, in 2 rounds
    assert dict(alone.replayed) == {"vectorise is False": 20}
    assert not together.vectorised


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"strategy": cloister.FedProx(mu=0.5), "local_epochs": 3},
        {"clip": 0.05, "largest_share": 0.2},
        {"strategy": cloister.FedAdam(lr=0.1), "per_round": 8, "rounds": 4},
        {"strategy": cloister.FedAvgM(), "local_epochs": 2},
        {"precision": "bfloat16", "clip": 0.05, "clip_buffers": 0.5},
        {"precision": "float16", "strategy": cloister.FedAdam(lr=0.1)},
    ],
)
def test_together_is_as_alone_whatever_the_round_is(options: dict[str, Any]) -> None:
    assert_close(ran(vectorise=True, **options), ran(vectorise=False, **options))


@pytest.mark.slow
def test_small_groups_are_as_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"owners": owners((10,) * 23)}
    whole = ran(vectorise=True, **many)
    assert whole.vectorised
    with monkeypatch.context() as patch:
        patch.setattr(groups, "_BYTES", 1 << 17)
        assert_close(ran(vectorise=True, **many), whole)
    assert_close(ran(vectorise=False, **many), whole)


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_ends_in_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"per_round": 8, "strategy": cloister.FedAvgM(), "vectorise": True}
    whole = ran(rounds=4, **options)
    ran(rounds=2, checkpoint=tmp_path / "run", **options)
    rest = ran(rounds=4, checkpoint=tmp_path / "run", **options)
    assert rest.history == whole.history
    there = whole.model.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in rest.model.state_dict().items())
    with pytest.raises(cloister.errors.ConfigurationError, match="another vectorise"):
        ran(rounds=5, checkpoint=tmp_path / "run", **{**options, "vectorise": False})


class Lazy:
    """A column that is made when it is read."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.row = TensorSpec(dtype, shape)

    def __len__(self) -> int:
        return 10

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """Row n is a function of n."""
        n = torch.from_numpy(indices)
        return n % 3 if not self.row.shape else torch.outer(n.double(), torch.arange(6.0).double()).sin()


class Unordered(Arrays):
    """A data set that has ways of its own."""


@pytest.mark.slow
def test_rows_that_are_read_when_they_are_needed() -> None:
    data = {str(at): Arrays({"x": Lazy("float64", (6,)), "y": Lazy("int64", ())}) for at in range(6)}
    together = ran(vectorise=True, owners=data, local_epochs=2)
    assert together.vectorised
    assert_close(together, ran(vectorise=False, owners=data, local_epochs=2))
    others = {name: Unordered(each.columns) for name, each in data.items()}
    assert list(ran(vectorise=True, owners=others).replayed) == [
        "the rows of their data sets cannot be read in any order"
    ]


@cloister.plan
def noisy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """With a random number of its own."""
    return F.cross_entropy(model(x + torch.randn_like(x)), y)


@cloister.plan
def computed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """With labels that are computed on the way."""
    return F.cross_entropy(model(x), (y + 1) % 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": model(0.5)}, "draws random numbers"),
        ({"loss": noisy}, "draws random numbers"),
        ({"loss": computed}, "follows indices that are computed on the way"),
        (
            {"model": nn.Sequential(nn.Linear(6, 90_000), nn.Linear(90_000, 3)).double()},
            "bytes for each model, more than 1,048,576",
        ),
    ],
)
def test_what_cannot_be_vectorised_is_replayed_and_says_why(options: dict[str, Any], reason: str) -> None:
    few = {"owners": owners((8,) * 4), "rounds": 1, **options}
    run = ran(vectorise=True, **few)
    assert [count for why, count in run.replayed.items() if reason in why] == [4]
    alone = ran(vectorise=False, **few).model.state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in run.model.state_dict().items())


class Words(nn.Module):
    """With a table whose rows the batch names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, dtype=torch.float64)
        self.head = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, from the mean of the words."""
        return self.head(self.table(x).mean(1))  # type: ignore[no-any-return]


def words(*, bad: dict[str, int], label: int = 0) -> dict[str, Any]:
    """Six owners; those in ``bad`` name this row of the table once."""
    generator = torch.Generator().manual_seed(3)
    data = {str(at): (torch.randint(10, (9, 5), generator=generator), torch.arange(9) % 3) for at in range(6)}
    for name, row in bad.items():
        data[name][0][4, 2] = row
    data["3"][1][7] += label
    return data


@pytest.mark.slow
@pytest.mark.parametrize("row", [10, -1, 59, 60, 2**40])
def test_indices_out_of_range_are_refused_before_a_kernel_sees_them(row: int) -> None:
    """In a group the tables lie end to end: row 10 of one owner would be row 0 of the next."""
    with pytest.raises(PlanError, match=r"owner '2'.*embedding"):
        ran(vectorise=True, model=Words(), owners=words(bad={"2": row, "5": 10}))


@pytest.mark.slow
@pytest.mark.parametrize("label", [3, -20, 2**40])
def test_labels_out_of_range_are_refused(label: int) -> None:
    with pytest.raises(PlanError, match=r"owner '3'.*nll_loss"):
        ran(vectorise=True, model=Words(), owners=words(bad={}, label=label))


@pytest.mark.slow
@pytest.mark.parametrize(
    "planned", [loss, cloister.plan(lambda model, x, y: F.cross_entropy(model(x), y.int().long()))]
)
def test_indices_that_are_in_range(planned: PlannedLoss) -> None:
    torch.manual_seed(0)
    start, data = Words(), words(bad={})
    data["3"][1][7] = -100 if planned is loss else 0  # what cross_entropy leaves out
    together = ran(vectorise=True, model=start, owners=data, loss=planned, optimizer=cloister.Adam(eps=1e-3))
    assert together.vectorised
    assert_close(
        together, ran(vectorise=False, model=start, owners=data, loss=planned, optimizer=cloister.Adam(eps=1e-3))
    )


@pytest.mark.slow
def test_a_group_that_diverges_says_at_whom() -> None:
    data = owners((8,) * 6)
    data["owner 4"] = (data["owner 4"][0] * torch.inf, data["owner 4"][1])
    with pytest.raises(TrainingError, match=r"owner 'owner 4'.*not finite"):
        ran(vectorise=True, owners=data)
