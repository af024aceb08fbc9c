"""Attack: from a child process that was taken over, write into the owner's log what never happened, write over what
did, clear the terminal, fill the disk.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cloister.node import process
from cloister.node.process import LOG_BYTES, Process
from tests.attacks.writes_to_the_log import FORGED

ROOT = Path(__file__).parents[2]


def test_what_a_child_writes_is_told_as_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    real = process._environment
    monkeypatch.setattr(process, "_environment", lambda: real() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"})
    with caplog.at_level(logging.INFO):
        child = Process.start("tests.attacks.writes_to_the_log", links=0)
        assert child.reason() == "it exited with status 0"
        child.end()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:4] == [
        f"process {child.pid}: {FORGED.decode().rstrip()}",
        f"process {child.pid}: \\x1b[2J\\x1b[H\\r\\xff",
        f"process {child.pid}: no going back",
        f"process {child.pid}: no reading",
    ]
    assert all(line.startswith(f"process {child.pid}") for line in lines)
    assert lines[-1] == f"process {child.pid} writes too much; no more of it is written here"
    assert sum(map(len, lines)) < 8 * LOG_BYTES  # a zero takes four characters to write
    assert FORGED.decode() not in capfd.readouterr().err  # past the listener
