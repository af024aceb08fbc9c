"""The example of early stopping stops, and keeps the best of its models."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "early_stopping.py"


@pytest.mark.slow
def test_it_stops_once_the_model_gets_no_better(capsys: pytest.CaptureFixture[str]) -> None:
    values = runpy.run_path(str(SCRIPT))
    lines = capsys.readouterr().out.splitlines()
    rounds = [line for line in lines if line.startswith("round") and "owners" in line]
    best = values["best"]
    assert values["PATIENCE"] < len(rounds) < values["ROUNDS"]
    assert best.since == values["PATIENCE"]
    assert f"round {len(rounds)} is the 5th without a better model" in lines
    assert values["accuracy"] > 0.9
