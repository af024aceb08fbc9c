"""A study of which one owner cannot use the job: it is named with the reason, wherever a researcher looks; and a study
that waits for an owner is stopped from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.study.study import StudyRun
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e

ROWS = 100
NUMBERS = {"data": "#mri", "optimizer": cloister.SGD(lr=0.1), "batch_size": 32, "steps": 3, "rounds": 5000}
WHY = "column 'y' holds float64 where 'y' (int64[]) is expected"


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(2, 3)


def command(local: LocalStudy, at: str, *words: str) -> str:
    """What the command line prints, in a process of its own."""
    folder = local.folder
    options = ["--identity", str(folder / "researcher.key"), "--at", at, "--accept-simulated"]
    done = subprocess.run(
        [sys.executable, "-m", "cloister", "study", *words, str(folder / "charter.toml"), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_owner_that_declines_is_named_and_a_job_is_stopped_from_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = loss.capture(model(), example=(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)))
    chance = np.random.default_rng(3)
    x, y = chance.normal(size=(ROWS, 2)).astype(np.float32), chance.integers(0, 3, ROWS)
    for name in ("alice", "bob"):
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    np.savez(tmp_path / "carol.npz", x=x, y=y.astype(np.float64))
    owners = {
        name: [LocalColumns(tmp_path / f"{name}.npz", ("x", "y"), ("#mri",))] for name in ("alice", "bob", "carol")
    }
    found: list[StudyRun] = []
    limits: dict[str, Any] = {"floor": 2, "rounds": 5000, "min_examples": 50}
    limits["first_model"] = cloister.model_digest(model(), plan)
    with LocalStudy(tmp_path, owners, jobs=[cloister.job("train", plan, **NUMBERS)], limits=limits) as local:
        local.start_aggregator()
        local.start()
        study = local.study(patience_s=60.0)
        at = next(iter(local.routes.values()))
        local.gather()
        started = threading.Event()

        def fit() -> None:
            found.append(study.fit(model(), plan, on_round=lambda done: started.set(), **NUMBERS))

        thread = threading.Thread(target=fit)
        thread.start()
        try:
            assert started.wait(60.0)
            os.kill(local.pid("bob"), signal.SIGSTOP)

            def waits_for_bob() -> bool:
                now = study.status()
                doing = {owner.name: owner.doing for owner in now.owners}
                return (now.phase, doing["bob"], doing["carol"]) == ("training", "awaited", "out")

            assert wait_until(waits_for_bob, within_s=90.0)
            now = study.status()
            assert (now.job, now.round > 0, now.done > 0) == ("train", True, True)
            carol = next(owner for owner in now.owners if owner.name == "carol")
            assert WHY in carol.why
            assert "carol" in str(now)
            assert json.loads(command(local, at, "status", "--json"))["job"] == "train"
            assert "job         none" in command(local, at, "stop")
            thread.join(30.0)
            assert not thread.is_alive()
        finally:
            os.kill(local.pid("bob"), signal.SIGCONT)
            local.kill(AGGREGATOR) if thread.is_alive() else None
        local.found(AGGREGATOR, f"(is without carol: it declined: .*{WHY[:20]})", within_s=30.0)
    [run] = found
    assert not run.finished
    assert run.history
    assert all(done.owners == ("alice", "bob") for done in run.history)
    assert all(WHY in done.absent["carol"] for done in run.history)
    assert "carol: it declined:" in str(run.history)
    lines = [line for line in capsys.readouterr().err.splitlines() if "without carol" in line]
    assert len(lines) == 1
    assert lines[0].startswith("round 1  without carol: it declined: ")
    assert WHY in lines[0]
