"""Clipping in a simulation: what of an update it is of, and that it is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.simulation.simulate import SimulationRun


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and the share of right answers."""
    logits = model(x)
    return {"loss": F.cross_entropy(logits, y), "accuracy": (logits.argmax(1) == y).float().mean()}


def ran(*, scale: float = 300.0, **options: Any) -> SimulationRun:
    """Columns of a large scale, which BatchNorm sees to: its running variance grows to 90,000."""
    generator = torch.Generator().manual_seed(2)
    true = torch.randn(6, 3, generator=generator)
    inputs = [torch.randn(20, 6, generator=generator) for _ in range(5)]
    owners = {str(at): (scale * x, (x @ true).argmax(1)) for at, x in enumerate(inputs)}
    torch.manual_seed(1)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    given = {"optimizer": cloister.SGD(lr=0.1), "batch_size": 10, "local_epochs": 2, "rounds": 4, **options}
    return cloister.simulate(model, loss, owners=owners, **given)


@pytest.mark.slow
@pytest.mark.parametrize("vectorise", [True, False])
def test_a_clip_is_of_parameters_and_leaves_statistics_as_they_are(vectorise: bool) -> None:
    free, clipped = (ran(clip=clip, vectorise=vectorise, rounds=20) for clip in (None, 1.0))
    there = free.model.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in clipped.model.state_dict().items())
    assert float(there["0.running_var"].min()) > 1e4
    assert clipped.history[-1].metrics["accuracy"] > 0.6  # a third is chance
    assert set(clipped.history.series("clipped")) == {0.0}
    bounded = ran(clip=1.0, clip_buffers=1e-3, vectorise=vectorise)
    assert float(bounded.model.state_dict()["0.running_var"].max()) < 2
    assert set(bounded.history.series("clipped")) == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("vectorise", [True, False])
def test_updates_that_are_clipped_are_told_once(vectorise: bool, caplog: pytest.LogCaptureFixture) -> None:
    run = ran(clip=1e-3, vectorise=vectorise)
    assert run.history.series("clipped") == [1.0] * 4
    for done in run.history:
        assert 1e-3 < done.clipping["median_update_norm"] <= done.clipping["largest_update_norm"]
    (record,) = caplog.records
    assert "were clipped to 0.001 in 3 of 3 rounds" in record.getMessage()
    assert "take a clip above that norm" in record.getMessage()


@pytest.mark.slow
def test_the_norms_are_told_alike_together_and_alone_and_without_a_clip() -> None:
    together, alone = (ran(vectorise=vectorise).history for vectorise in (True, False))
    for name in ("update_norm", "median_update_norm", "largest_update_norm"):
        assert together.series(name) == pytest.approx(alone.series(name), rel=1e-4)
    assert {"clipped", "update_norm"}.isdisjoint(together.names)
