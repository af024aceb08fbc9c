"""The listener holds the key and speaks to strangers: it loads neither torch nor NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("module", ["cloister.node.server", "cloister.cli.node"])
def test_the_listener_loads_no_torch(module: str) -> None:
    script = f"import sys, {module}; print({{'torch', 'numpy', 'safetensors'}} & {{*sys.modules}})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
