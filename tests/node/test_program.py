"""How a process that a node started ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging
from cloister.node.program import run, use_threads

def work(arguments):
    use_threads(1)
    use_threads(1)  # what is settable once is asked for once more
    print(*arguments, flush=True)
    {last}

run(work, log=logging.getLogger("tests"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "status", "noted"),
    [("return", 0, ""), ("raise EOFError('gone')", 0, ""), ("raise ValueError('secret rows')", 1, "ValueError at")],
)
def test_it_ends_with_a_status_and_a_note_without_values(last, status, noted):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(last=last), "1", "2"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, "1 2\n")
    assert noted in done.stderr
    assert bool(noted) == bool(done.stderr)
    assert "secret" not in done.stderr
