"""Hospitals whose programs write other element types study together, and a script stops their study early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.study.history import Round
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy

pytestmark = pytest.mark.e2e

ROWS = 100
NUMBERS = {"data": "#mri", "optimizer": cloister.SGD(lr=0.1), "batch_size": 32, "steps": 3, "rounds": 5000}


class NoBetterError(Exception):
    """What the script stops early with."""


@cloister.plan
def loss(model: nn.Module, age: Tensor, pressure: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(torch.stack([age, pressure], 1)), y)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(2, 3)


def test_float64_and_int32_take_part_and_a_callback_stops_the_job(tmp_path: Path) -> None:
    plan = loss.capture(model(), example=(torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.int64)))
    chance = np.random.default_rng(3)
    age, pressure, y = chance.normal(size=ROWS), chance.normal(size=ROWS), chance.integers(0, 3, ROWS)
    np.savez(tmp_path / "a.npz", age=age.astype(np.float32), pressure=pressure.astype(np.float32), y=y)
    np.savez(tmp_path / "b.npz", age=age, pressure=pressure, y=y.astype(np.int32))
    pq.write_table(pa.table({"age": age, "pressure": pressure, "y": y.astype(np.uint8)}), tmp_path / "c.parquet")
    files = {"alice": "a.npz", "bob": "b.npz", "carol": "c.parquet"}
    seen: list[Round] = []

    def watch(done: Round) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise NoBetterError

    with LocalStudy(
        tmp_path,
        {name: [LocalColumns(tmp_path / file, ("age", "pressure", "y"), ("#mri",))] for name, file in files.items()},
        jobs=[cloister.job("train", plan, **NUMBERS)],
        limits={"first_model": cloister.model_digest(model(), plan), "floor": 2, "rounds": 5000, "min_examples": 50},
    ) as local:
        local.start_aggregator()
        local.start()
        study = local.study(patience_s=60.0)
        with pytest.raises(NoBetterError):
            study.fit(model(), plan, on_round=watch, on_error="stop", **NUMBERS)
        local.found(AGGREGATOR, "(stopped by the researcher)", within_s=60.0)
    assert {name for done in seen for name in done.owners} == set(files)
