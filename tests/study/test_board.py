"""What TensorBoard reads of a run, with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import cloister
from cloister.errors import ConfigurationError, MissingDependencyError
from cloister.simulation.simulate import SimulationRun
from cloister.study.history import History, Round


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The mean squared error."""
    return {"loss": (model(x) - y).square().mean()}


def simulated(*, rounds: int, seed: int = 0, **options: Any) -> SimulationRun:
    torch.manual_seed(0)
    data = {name: (torch.randn(4, 2), torch.randn(4, 1)) for name in ("alice", "bob")}
    optimizer = cloister.SGD(lr=0.1)
    model = nn.Linear(2, 1)
    return cloister.simulate(
        model, loss, owners=data, optimizer=optimizer, batch_size=2, rounds=rounds, seed=seed, **options
    )


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each scalar's steps and values."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected(history: History) -> dict[str, Any]:
    """What stands there after these rounds; values are of 32 bits."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for each in history:
        round_ = {"owners": len(each.owners), "examples": each.examples, "seconds": each.took_s}
        groups = {"training": each.metrics, "evaluation": each.evaluation, "clipping": each.clipping, "round": round_}
        for group, numbers in groups.items():
            for name, value in numbers.items():
                scalars.setdefault(f"{group}/{name}", []).append((each.number, pytest.approx(value, rel=1e-6)))
    return scalars


def test_a_history_afterwards(tmp_path: Path) -> None:
    rounds = [Round(at, ("a", "b"), 7, {"loss": 1 / at}, {"true rate": 0.5} if at == 2 else {}, 0.25) for at in (1, 2)]
    History(rounds).to_tensorboard(tmp_path / "runs" / "first")
    assert read(tmp_path / "runs" / "first") == {
        "training/loss": [(1, 1.0), (2, 0.5)],
        "evaluation/true rate": [(2, 0.5)],
        "round/owners": [(1, 2.0), (2, 2.0)],
        "round/examples": [(1, 7.0), (2, 7.0)],
        "round/seconds": [(1, 0.25), (2, 0.25)],
    }


@pytest.mark.slow
def test_each_round_can_be_seen_when_it_is_told(tmp_path: Path) -> None:
    seen: list[list[tuple[int, float]]] = []
    run = simulated(rounds=3, tensorboard=tmp_path, on_round=lambda _: seen.append(read(tmp_path)["training/loss"]))
    whole = expected(run.history)
    assert seen == [whole["training/loss"][:shown] for shown in (1, 2, 3)]
    assert read(tmp_path) == whole


@pytest.mark.slow
def test_a_run_that_is_gone_on_with_is_shown_once_and_whole(tmp_path: Path) -> None:
    def lose(done: Round) -> None:
        raise KeyboardInterrupt

    file, folder = tmp_path / "run.safetensors", tmp_path / "runs"
    simulated(rounds=1, checkpoint=file)  # not shown then
    simulated(rounds=4, checkpoint=file, tensorboard=folder, on_round=lose)
    run = simulated(rounds=4, checkpoint=file, tensorboard=folder)
    assert read(folder) == expected(run.history)
    assert len(run.history) == 4


@pytest.mark.slow
def test_another_run_takes_the_place_of_the_first(tmp_path: Path) -> None:
    simulated(rounds=3, tensorboard=tmp_path)
    run = simulated(rounds=2, seed=1, tensorboard=tmp_path)
    assert read(tmp_path) == expected(run.history)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_found_before_the_first_round(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"TensorBoard's folder .* cannot be written"):
        simulated(rounds=1, tensorboard=tmp_path / "file" / "runs", on_round=lambda _: pytest.fail("a round was run"))


@pytest.mark.slow
def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingDependencyError, match=r"tensorboard.*pip install 'cloister\[plots\]'"):
        simulated(rounds=1, tensorboard=tmp_path, on_round=lambda _: pytest.fail("a round was run"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'cloister\[plots\]'"):
        simulated(rounds=1).history.to_tensorboard(tmp_path)
    assert not list(tmp_path.iterdir())
