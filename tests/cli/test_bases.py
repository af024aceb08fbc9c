"""What members are shown of a base: by the charter, the study's page, and the check of a node that has to hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import cloister
from cloister.cli.charter import app as charter_app
from cloister.cli.node import app as node_app
from cloister.cli.study import app as study_app
from cloister.testing.studies import LocalColumns, LocalStudy

FROZEN = 12


class Reader(nn.Module):
    """A tower of layers that stay as they are, and one that is learned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words = nn.Embedding(9, 24)
        self.tower = nn.Sequential(*(nn.Linear(24, 24, bias=False) for _ in range(FROZEN)))
        self.requires_grad_(False)
        self.head = nn.Linear(24, 64)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.tower(self.words(x)).mean(1))
        return found


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(model(x), y)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of words on a base of two files, of which a recipe draws what is learned."""
    found = tmp_path_factory.mktemp("study")
    model, x = Reader(), torch.zeros(64, 5, dtype=torch.int64)
    plan = loss.capture(model, example=(x[:4], x[:4, 0]))
    parts = {
        "words.safetensors": {"words.weight"},
        "tower.safetensors": set(dict(model.tower.named_parameters("tower"))),
    }
    from safetensors.torch import save_file

    held = dict(model.named_parameters())
    for name, names in parts.items():
        save_file({each: held[each].detach() for each in names}, found / name)
    base = cloister.Base(*(found / name for name in parts))
    np.savez(found / "text.npz", x=x.numpy(), y=x[:, 0].numpy())

    def first_model(charter: Path) -> bytes:
        return cloister.model_digest(cloister.draw_first_model(model, charter), plan, base=base)

    local = LocalStudy(
        found,
        {name: [LocalColumns(found / "text.npz", ("x", "y"), ("#text",))] for name in ("alice", "bob")},
        jobs=[
            cloister.job("job", plan, data="#text", optimizer=cloister.SGD(lr=0.1), batch_size=32, steps=2, rounds=2)
        ],
        limits={
            "bases": {"tower": [*base.digests.values()]},
            "first_model": first_model,
            "recipe": cloister.recipe_toml(model, plan),
        },
        models=[*base.digests],
    )
    local.write_configuration("alice")
    drawn = cloister.draw_first_model(model, found / "charter.toml")
    cloister.write_study(found / "charter.study", charter=found / "charter.toml", plans=[plan], model=drawn, base=base)
    return found


def said(app: object, *words: str) -> str:
    done = CliRunner().invoke(app, words)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    return done.output


def test_a_charter_shows_its_bases(folder: Path) -> None:
    shown = said(charter_app, "show", str(folder / "charter.toml"))
    assert "base        tower: what no job learns, in files that each owner has" in shown
    for file in ("words", "tower"):
        assert (
            f"  {cloister.Base(folder / f'{file}.safetensors').digests[folder / f'{file}.safetensors'].hex()}" in shown
        )
    assert "clip_buffers        none: no job learns buffers" in shown


def test_a_check_of_a_charter_does_not_guess_at_what_is_in_a_base(folder: Path) -> None:
    assert "recipe now draws" not in said(charter_app, "check", str(folder / "charter.toml"))


def test_a_page_is_as_long_as_what_is_learned(folder: Path) -> None:
    page = said(study_app, "show", str(folder / "charter.study"))
    fixed = FROZEN * 24 * 24 + 9 * 24
    assert f"and {FROZEN + 1} that are fixed: {fixed:,} values" in page
    assert "drawn again here: it is the charter's" in page
    assert "'tower.11.weight' float32[24, 24]" not in page
    assert "and 4 more" in page


def test_owners_of_words_are_not_told_to_centre_them(folder: Path) -> None:
    page = " ".join(said(study_app, "show", str(folder / "charter.study")).split())
    assert "a layer of 64 units is wider than a step's 32 rows: what it is given of single rows can be read" in page
    assert "take 64 at least" in page
    assert "centre the columns" not in page


def test_a_node_is_told_which_of_its_files_are_of_a_base_and_which_are_missing(folder: Path) -> None:
    file = folder / "alice.toml"
    whole = said(node_app, "check", str(file))
    assert "warning" not in whole
    for name in ("words", "tower"):
        assert f"model       base tower of study: {folder / f'{name}.safetensors'}, SHA-256 " in whole
    text = file.read_text(encoding="utf-8")
    kept, lost = text.rsplit("[[models]]", 1)
    other = folder / "other.toml"
    other.write_text(kept, encoding="utf-8")
    digest = cloister.Base(folder / "tower.safetensors").digests[folder / "tower.safetensors"]
    assert "tower.safetensors" in lost
    assert f"base tower of study: 1 of its 2 files are not here, the first with the SHA-256 {digest.hex()}" in said(
        node_app, "check", str(other)
    )
    other.write_text(text.replace("words.safetensors", "text.safetensors"), encoding="utf-8")
    done = CliRunner().invoke(node_app, ["check", str(other)])
    assert done.exit_code == 2
    assert "under [[models]], cannot be read" in done.output
