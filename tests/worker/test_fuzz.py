"""A sample of ``tools.fuzz``'s random sessions finds nothing, and planted faults are found.

Without a C compiler memory is not fenced: then the plants that only a fence shows are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worker.planting import NEED_FENCE, PLANTS

ROOT = Path(__file__).parents[2]


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sample_finds_nothing() -> None:
    done = started("-m", "tools.fuzz", "--few", "--seed", "1", "--calls", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found: nothing" in done.stdout


@pytest.fixture(scope="module")
def planted() -> Any:
    done = started("-m", "tests.worker.planting")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(planted: Any, name: str) -> None:
    kind, op, _ = PLANTS[name]
    if name in NEED_FENCE and not planted["fenced"]:
        pytest.skip("no C compiler, so no fence")
    found = planted["found"][name]
    assert found[:2] == [kind, op]
    assert found[2] <= 3  # a tensor or two, and the call
    assert found[3] == kind  # what is printed shows it again


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_plant_nothing_is_found(planted: Any) -> None:
    assert "" not in planted["found"]
