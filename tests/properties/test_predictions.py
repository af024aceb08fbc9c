"""What is said of a result before it is there is what is there: for every operation that a worker runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch._subclasses import fake_tensor

from cloister.tensor import optable
from cloister.tensor.fakes import OWN
from tests.properties.predictions import no_fallback, try_all
from tools.fuzz.valid import few, name_of

ROOT = Path(__file__).parents[2]
NAMES = [name for name, row in optable.load().items() if not row.value]
MADE_UP = {"aten::threshold_backward"}
"""Of element types that autograd never gives it; then the result is refused."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensor, "run_fallback_kernel", no_fallback)
    faults, ran = try_all(few(), 1, [*map(name_of, OWN), *NAMES[::12]])
    assert not {name: found for name, found in faults.items() if name not in MADE_UP}
    assert len(+ran) > 30


@pytest.mark.slow
@pytest.mark.timeout(900)  # of which recording the samples takes the most, once
def test_every_overload() -> None:
    """With PyTorch's own samples, which reach nearly all."""
    command = [sys.executable, "-m", "tests.properties.predictions", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=1200)
    faults, never = json.loads(done.stdout.splitlines()[-1])
    assert not {name: found for name, found in faults.items() if name not in MADE_UP}
    assert len(never) < len(NAMES) / 20, never
