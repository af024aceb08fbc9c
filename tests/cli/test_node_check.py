"""``cloister node check`` before a study: data of another type, a tag that is mistyped, files that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import cloister
from cloister.cli.charter import app as charter_app
from cloister.cli.node import app
from cloister.net.identity import Identity
from cloister.node.setup import node_of
from cloister.testing.studies import LocalColumns, LocalStudy

ROWS = 100


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(model(x), y)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(2, 3)


PLAN = loss.capture(model(), example=(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)))


def studied(folder: Path, *, tags: Sequence[str] = ("#mri",), jobs: Sequence[str] = ("#mri",), **columns: Any) -> Path:
    """Alice's node.toml under a charter with a study file beside it, and her data set."""
    folder.mkdir(exist_ok=True)
    given = {"x": np.zeros((ROWS, 2), np.float32), "y": np.zeros(ROWS, np.int64), **columns}
    np.savez(folder / "mri.npz", **given)
    local = LocalStudy(
        folder,
        {name: [LocalColumns(folder / "mri.npz", ("x", "y"), tags)] for name in ("alice", "bob")},
        jobs=[
            cloister.job(f"job-{at}", PLAN, data=tag, optimizer=cloister.SGD(lr=0.1), batch_size=32, steps=2, rounds=2)
            for at, tag in enumerate(jobs)
        ],
        limits={"first_model": cloister.model_digest(model(), PLAN), "floor": 2, "rounds": 10},
    )
    cloister.write_study(folder / "charter.study", charter=folder / "charter.toml", plans=[PLAN], model=model())
    return local.write_configuration("alice")


def checked(file: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", str(file), *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_columns_that_become_the_plans_are_in_order_and_others_are_told(tmp_path: Path) -> None:
    file = studied(tmp_path / "fits", x=np.zeros((ROWS, 2)), y=np.zeros(ROWS, np.int32))
    code, said = checked(file)
    assert (code, "warning" in said) == (0, False), said
    assert "x float64[2], y int32[] in" in said
    file = studied(tmp_path / "not", y=np.zeros(ROWS))
    wanted = (
        "warning     job job-0 of study, data set '#mri': the data set does not fit the training: column 'y' holds"
        " float64 where 'y' (int64[]) is expected: save it as int64"
    )
    assert wanted in checked(file)[1].splitlines()
    assert wanted in checked(file, "--study", str(file.with_name("charter.study")))[1].splitlines()
    file.with_name("charter.study").rename(tmp_path / "s.study")
    assert wanted not in checked(file)[1]
    assert wanted in checked(file, "--study", str(tmp_path / "s.study"))[1]
    code, said = checked(file, "--study", str(tmp_path / "fits" / "charter.study"))
    assert code == 2
    assert "is of another charter than those of alice" in said


def test_a_mistyped_tag_is_told_at_the_check_and_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = studied(tmp_path, tags=("#mir",))
    wanted = "job job-0 of study wants a data set with the tag '#mri', and none here has it; there is '#mir'"
    code, said = checked(file)
    assert code == 0
    assert f"warning     {wanted}: did you mean '#mir'?" in said
    with caplog.at_level(logging.WARNING):
        node = node_of(file)
    node.stop()
    node.serve()
    assert f"{wanted}: did you mean '#mir'?" in [record.getMessage() for record in caplog.records]


def test_two_tags_that_are_nearly_one_are_told_of_in_the_charter(tmp_path: Path) -> None:
    studied(tmp_path / "typed", jobs=("#mri", "#mir"))
    said = CliRunner().invoke(charter_app, ["check", str(tmp_path / "typed" / "charter.toml")]).output
    assert "hint        one job is for the data '#mri', and another's tag is nearly that: did you mean '#mir'?" in said
    studied(tmp_path / "years", jobs=("#mri-2023", "#mri-2024"))
    assert "hint" not in CliRunner().invoke(charter_app, ["check", str(tmp_path / "years" / "charter.toml")]).output


BESIDE = """
name = "north"
identity = "node.key"
listen = "127.0.0.1:0"
[[data_sets]]
tags = ["#cancer"]
"""


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ('file = "p.parquet"\ncolumns = ["age"]', "column 'age' holds nulls; fill them or leave those rows out"),
        ('file = "p.parquet"\ncolumns = ["sex"]', "column 'sex' holds string, which cannot be trained on; write it as"),
        ('file = "p.parquet"\ncolumns = ["sax"]', "no column 'sax'; it holds age, sex, whole: did you mean 'sex'?"),
        ('file = "junk.parquet"\ncolumns = ["x"]', "junk.parquet: the file is damaged or not what its name says"),
        (
            'file = "p.csv"\ncolumns = ["x"]',
            'write it as Parquet, with types that you choose: pandas.read_csv("p.csv")',
        ),
        ('file = "folder"\ncolumns = ["x"]', "a file of one of these kinds: .npz, .npy, .safetensors, .parquet"),
        ('file = "p.parquet"', "one for studies names its columns, in place of a tensor"),
        ('file = "p.npz"\ncolumns = ["ages"]', "no tensor 'ages'; it holds age: did you mean 'age'?"),
        ('file = "p.npz"\ncolums = ["ages"]\ntensor = "age"', "colums: there is no such key: did you mean 'columns'?"),
        ("file = p.npz", 'a text stands in quotes: file = "..."'),
    ],
)
def test_what_cannot_be_trained_on_is_told_with_a_way_out(tmp_path: Path, lines: str, wanted: str) -> None:
    Identity.create(tmp_path / "node.key")
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.parquet").write_text("not a parquet")
    np.savez(tmp_path / "p.npz", age=np.zeros(3))
    pq.write_table(pa.table({"age": [1.0, None], "sex": ["m", "f"], "whole": [1, 2]}), tmp_path / "p.parquet")
    (tmp_path / "node.toml").write_text(BESIDE + lines)
    code, said = checked(tmp_path / "node.toml")
    assert code == 2
    assert wanted in said
    assert len(said.splitlines()) <= 2


def test_parquet_that_can_be_read_is_in_order(tmp_path: Path) -> None:
    Identity.create(tmp_path / "node.key")
    pq.write_table(pa.table({"age": [1.0, 2.0], "whole": [1, 2]}), tmp_path / "p.parquet")
    (tmp_path / "node.toml").write_text(f'{BESIDE}file = "p.parquet"\ncolumns = ["whole", "age"]')
    code, said = checked(tmp_path / "node.toml")
    assert (code, "whole int64[], age float64[] in" in said) == (0, True), said
