"""A study on one machine, before any of its processes runs: what it writes is what an owner could have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.errors import ConfigurationError, UnreachableError
from cloister.net.files import read_charter
from cloister.node.config import read
from cloister.node.setup import load_charter
from cloister.testing.studies import ADDRESS, AGGREGATOR, LocalColumns, LocalStudy
from cloister.worker.data.salts import simulated_salt
from tests.support.charters import agreed_job

JOB = agreed_job(b"\1" * 32, batch_size=16, weights="rows")
LIMITS = {
    "first_model": b"\2" * 32,
    "floor": 2,
    "largest_share": 0.5,
    "clip": 0.25,
    "clip_buffers": 0.5,
    "row_buckets": (8, 16),
    "rounds": 7,
    "min_examples": 3,
    "metrics": {"loss": (0.0, 4.0)},
}


def study(folder: Path, *, rehearsal: int | None = None) -> LocalStudy:
    np.savez(folder / "data.npz", x=np.zeros((4, 2), "float32"), y=np.zeros(4, "int64"))
    owners = {name: [LocalColumns(folder / "data.npz", ("x", "y"), ("#mri", "#2026"))] for name in ("bob", "alice")}
    floors = {"bob": {"rounds": 5, "clip": 0.125, "min_batch": 20}}
    return LocalStudy(folder, owners, jobs=[JOB], limits=LIMITS, floors=floors, rehearsal=rehearsal)


def test_the_charter_is_as_was_asked_for(tmp_path: Path) -> None:
    local = study(tmp_path)
    limits = read_charter(tmp_path / "charter.toml").limits
    assert limits == local.charter.limits
    assert read_charter(tmp_path / "charter.toml").jobs == (JOB,)
    assert (limits.first_model, limits.clip_buffers) == (b"\2" * 32, 0.5)
    assert (limits.min_batch, limits.row_buckets) == (16, (8, 16))
    assert (limits.floor, limits.largest_share, limits.clip, limits.rounds, limits.min_examples) == (2, 0.5, 0.25, 7, 3)
    assert [(metric.name, metric.low, metric.high) for metric in limits.metrics] == [("loss", 0.0, 4.0)]
    assert not limits.interactive


def test_an_owner_takes_its_configuration_and_the_charter(tmp_path: Path) -> None:
    local = study(tmp_path)
    configuration = read(local.write_configuration("bob"))
    assert configuration.listen is None
    assert configuration.study_data[0].columns == ("x", "y")
    (use,) = configuration.charters
    assert use is not None
    assert use.floors is not None
    assert (use.floors.rounds, use.floors.clip, use.floors.min_batch) == (5, 0.125, 20)
    assert use.unsafe_salt is None
    assert use.routes == local.routes
    assert set(use.routes) == {ADDRESS}
    own, now = local.identities["bob"].fingerprint, local.charter.not_before
    assert load_charter(use, own=own, now=now) == local.charter


def test_the_owners_of_a_rehearsal_choose_rows_as_a_simulation_does(tmp_path: Path) -> None:
    local = study(tmp_path, rehearsal=7)
    for name in ("alice", "bob"):
        use = read(local.write_configuration(name)).charters[0]
        assert use is not None
        assert use.unsafe_salt == simulated_salt(7, name)


@pytest.mark.slow
def test_a_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    with study(tmp_path) as local:
        (tmp_path / "charter.toml").write_text("nonsense", encoding="utf-8")
        with pytest.raises(UnreachableError, match=r"charter\.toml"):
            local.start_aggregator()
        assert "charter.toml" in local.log(AGGREGATOR)
        assert local.log("bob") == ""


@pytest.mark.slow
def test_one_process_of_each(tmp_path: Path) -> None:
    with study(tmp_path) as local:
        local.start_aggregator()
        assert local.running(AGGREGATOR)
        with pytest.raises(ConfigurationError, match="already"):
            local.start_aggregator()
        route = local.routes
        local.kill(AGGREGATOR)
        assert not local.running(AGGREGATOR)
        local.start_aggregator()
        assert local.routes == route
