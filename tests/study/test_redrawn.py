"""A first model's digest, held against what the recipe draws, by the charter alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import cloister
from cloister.charter.toml import parse_charter
from cloister.cli.charter import app
from cloister.study.redrawn import stale
from tests.support.charters import agreed_job, text


class Counting(nn.Module):
    """A layer with a tensor that no recipe draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


@cloister.plan
def loss(model: nn.Module, x: Tensor) -> Tensor:
    """The mean square of what comes out."""
    return model(x).square().mean()


def drawn(folder: Path, model: nn.Module) -> tuple[Path, str]:
    """A charter with the model's recipe, and the digest that it should name."""
    file = folder / "charter.toml"
    plan = loss.capture(model, example=(torch.zeros(3, 4),))
    written = text(jobs=[agreed_job(bytes(32))], clip_buffers="1.0", first_model='"00"')
    written += cloister.recipe_toml(model, plan)
    file.write_text(written.replace('first_model = "00"\n', ""))
    digest = cloister.model_digest(cloister.draw_first_model(model, file), plan).hex()
    file.write_text(written.replace('"00"', f'"{digest}"'))
    return file, digest


MODELS = {
    "plain": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "with statistics": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_digest_that_was_written_down_before_a_change_is_told(name: str, tmp_path: Path) -> None:
    file, digest = drawn(tmp_path, MODELS[name]())
    assert stale(parse_charter(file.read_text())) is None
    changed = file.read_text().replace("clip = 1.0", "clip = 2.0")
    told = stale(parse_charter(changed))
    assert told is not None
    assert f"first_model is {digest}, and the recipe now draws" in told
    set_to = re.search(r'set first_model = "([0-9a-f]{64})"', told)
    assert set_to is not None
    assert stale(parse_charter(changed.replace(digest, set_to[1]))) is None


def test_a_model_with_tensors_that_a_charter_says_nothing_of_gets_a_hint(tmp_path: Path) -> None:
    file, _ = drawn(tmp_path, Counting())
    told = stale(parse_charter(file.read_text()))
    assert told is not None
    assert "Only if the model has buffers, or tensors that are not floating-point" in told


def test_without_a_recipe_there_is_nothing_to_say() -> None:
    assert stale(parse_charter(text())) is None


def test_check_prints_the_hint(tmp_path: Path) -> None:
    file, digest = drawn(tmp_path, MODELS["plain"]())
    assert "hint  " not in CliRunner().invoke(app, ["check", str(file)]).output
    file.write_text(file.read_text().replace("clip = 1.0", "clip = 2.0"))
    assert f"hint        first_model is {digest}" in CliRunner().invoke(app, ["check", str(file)]).output
