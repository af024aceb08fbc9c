"""A node sees to its file descriptors when it starts."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource
from cloister.errors import ConfigurationError
from cloister.node.descriptors import provide

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 600))
provide(sessions=0, connections=10)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
provide(sessions=9, connections=96)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
provide(sessions=0, connections=10)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
try:
    provide(sessions=32, connections=96)
except ConfigurationError as fault:
    print(fault)
"""


def test_as_many_as_it_takes_or_a_word_before_it_starts() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after, kept, refused = done.stdout.splitlines()
    assert (before, after, kept) == ("(100, 600)", "(376, 600)", "(376, 600)")
    assert "may have 600: lower max_sessions" in refused
