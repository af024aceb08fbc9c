"""The newest model of a study as a file that PyTorch reads, from what a script has kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import cloister
from cloister.cli.study import app
from cloister.errors import ConfigurationError, LedgerError
from cloister.study.log import CHAIN
from cloister.study.newest_model import write_newest
from cloister.study.state_dir import JOB, NEWEST
from tests.support.aggregators import Aggregator, Talk, vector

NUMBERS: dict[str, Any] = {
    "data": "#mri",
    "optimizer": cloister.SGD(lr=0.1),
    "batch_size": 32,
    "steps": 4,
    "rounds": 2,
}


class Tied(nn.Module):
    """Two names for one weight, a buffer of floats, and a counter that no round changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))  # type: ignore[no-any-return]


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


def model() -> Tied:
    torch.manual_seed(1)
    return Tied()


def plan() -> cloister.Plan:
    return loss.capture(model(), example=(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """The folder of a script that took a job of two rounds, and its model."""
    folder = tmp_path_factory.mktemp("study")
    agreed = cloister.job("train", plan(), **NUMBERS)
    aggregator = Aggregator(folder, jobs=[agreed], start=cloister.model_digest(model(), plan()), clip_buffers="1.0")
    length = sum(each.numel() for each in (*model().parameters(), *model().buffers()) if each.is_floating_point())

    def rounds(talk: Talk) -> None:
        talk.accept()
        instance = talk.begin()
        for seed in (1, 2):
            before = talk.ledger.sequence - (seed == 1)
            talk.release(vector(length, seed), instance=instance)
            talk.send(before, vector(length, seed))
        talk.finish()

    with aggregator.saying(rounds) as options, aggregator.study(options) as study:
        run = study.fit(model(), plan(), on_round=lambda done: None, **NUMBERS)
    return study.chain.parent, run.model


@pytest.fixture
def folder(trained: tuple[Path, nn.Module], tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    copy = tmp_path / "charter.rounds"
    copy.mkdir()
    for name in (CHAIN, NEWEST, JOB):
        (copy / name).write_bytes((trained[0] / name).read_bytes())
    return copy


def test_it_is_read_into_a_model_that_has_tied_weights_and_counters(
    trained: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    done = CliRunner().invoke(app, ["model", str(trained[0]), "--out", str(file)])
    assert done.exit_code == 0, done.output
    digest = cloister.model_digest(trained[1], plan())
    assert f"released by round 2, {digest.hex()}" in done.output
    fresh = Tied()
    load_model(fresh, file)
    assert cloister.model_digest(fresh, plan()) == digest
    assert fresh.first.weight is fresh.second.weight
    for name, value in trained[1].state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["round"] == "2"


def test_what_is_there_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("mine")
    with pytest.raises(ConfigurationError, match="exists and is not overwritten"):
        write_newest(folder, file)
    assert file.read_text() == "mine"
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_newest(folder, tmp_path / "none" / "model.safetensors")


def test_a_folder_without_a_model_says_which_to_name(folder: Path, tmp_path: Path) -> None:
    for empty in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigurationError, match="holds no model that a round released: name the folder"):
            write_newest(empty, tmp_path / "m.safetensors")
    (folder / CHAIN).unlink()
    with pytest.raises(ConfigurationError, match="holds no model that a round released"):
        write_newest(folder, tmp_path / "m.safetensors")


def test_only_what_the_newest_receipt_names_is_written(folder: Path, tmp_path: Path) -> None:
    lines = (folder / CHAIN).read_bytes().splitlines(keepends=True)
    (folder / CHAIN).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ConfigurationError, match="is not the model that round 1 released"):
        write_newest(folder, tmp_path / "m.safetensors")
    (folder / CHAIN).write_bytes(b"{}\n")
    with pytest.raises(LedgerError, match=r"chain\.jsonl, line 1: .*; move it away"):
        write_newest(folder, tmp_path / "m.safetensors")
    (folder / JOB).write_bytes(b"no job")
    with pytest.raises(ConfigurationError, match=r"job is damaged \(.*\); run the script again"):
        write_newest(folder, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
