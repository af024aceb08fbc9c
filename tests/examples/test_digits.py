"""The tutorial's example runs, and its owners learn together what none of them could alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot

SCRIPT = Path(__file__).parents[2] / "examples" / "digits.py"


@pytest.mark.slow
def test_owners_with_few_digits_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    values = runpy.run_path(str(SCRIPT))
    pyplot.close("all")
    run = values["run"]
    assert run.history[-1].evaluation["accuracy"] > 0.75  # whoever knows three digits is right about 0.3 of them
    assert capsys.readouterr().out.strip() == str(run.history)
    assert "<svg" in (tmp_path / "digits.svg").read_text(encoding="utf-8")
