"""The measurement of this software in a simulated TEE, as a process of its own has it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = "import sys; from cloister.attest.attester.measure import measure; print(measure(sys.argv[1]).hex())"


def measured(role: str) -> bytes:
    """What a process that is started now would say, 48 bytes: what runs the tests may have loaded other things."""
    arguments = [sys.executable, "-c", PROGRAM, role]
    return bytes.fromhex(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
