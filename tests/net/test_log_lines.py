"""A log in which no peer writes a line of its own."""

from __future__ import annotations

import logging

import pytest

from cloister.net.log_lines import LogLines

FORGED = "x\x1b[2J\n2026-01-01 INFO cloister: all is well"


def record(message: str, **more: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "cloister", "levelname": "INFO", "msg": "peer: %s", "args": (message,), **more}
    )


def test_a_message_is_one_line() -> None:
    found = LogLines("%(levelname)s %(message)s").format(record(FORGED))
    assert found == "INFO peer: x\\x1b[2J\\n2026-01-01 INFO cloister: all is well"


def test_a_traceback_stands_apart() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError as fault:
        told = LogLines("%(message)s").format(record("x", exc_info=(ValueError, fault, fault.__traceback__)))
    first, *others = told.split("\n")
    assert first == "peer: x"
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_a_process_writes_such_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, list[logging.Handler]] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **kept: given.update(kept))
    from cloister.net.log_lines import start_log

    start_log()
    assert isinstance(given["handlers"][0].formatter, LogLines)
