"""Large vectors are given back to the system when they are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import numpy as np
from cloister.enclave.server import give_back_large

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "given back":
    give_back_large()
before = resident()
for _ in range(2):  # glibc learns from the first
    vector = np.ones(24 << 17)
    del vector
print((resident() - before) >> 20)
"""


def left(how: str) -> int:
    """The MiB that two vectors of 24 MiB, one after the other, leave behind."""
    found = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True, text=True)
    return int(found.stdout)


@pytest.mark.slow
def test_nothing_of_a_large_vector_stays() -> None:
    assert left("given back") < 8
    assert left("kept") > 16
