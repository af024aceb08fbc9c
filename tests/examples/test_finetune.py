"""The example of language models: three owners teach an adapter what none of them shows, and peft reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune.py"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_adapter_learns_what_owners_write(kind: str, tmp_path: Path) -> None:
    options = ["--kind", kind, "--rounds", "2", "--out", str(tmp_path / "adapter")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^round [12]  3 owners  loss", done.stdout, re.MULTILINE)) == 2
    assert re.search(r"learned: ([\d,]+) of", done.stdout)
    rows = re.findall(r"^(clinic|office|kitchen) +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == ["clinic", "office", "kitchen"]
    for _, before, simulated, study in rows:
        assert float(study) < 0.8 * float(before)
        assert float(study) == pytest.approx(float(simulated), rel=0.5)
    assert re.search(r"^clinic +Patient reports \w+", done.stdout, re.MULTILINE)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        each.name for each in (tmp_path / "adapter").iterdir()
    }
