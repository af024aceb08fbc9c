"""A log that those who connect cannot fill."""

from __future__ import annotations

import logging

import pytest

from cloister.net.bounded_log import BoundedLog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> BoundedLog:
    caplog.set_level(logging.INFO)
    return BoundedLog(logging.getLogger("bounded"), clock=clock, window_s=60.0, each=2, total=5)


def test_a_flood_from_one_source(log: BoundedLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1000):
        log.note(logging.INFO, "192.0.2.1", "%d from %s", number, "192.0.2.1")
    log.note(logging.WARNING, "192.0.2.2", "another")
    assert caplog.messages == ["0 from 192.0.2.1", "1 from 192.0.2.1", "another"]
    clock.now = 59.9
    log.flush()
    assert log.until == 60.0
    assert len(caplog.messages) == 3
    clock.now = 60.0
    log.flush()
    assert caplog.messages[3:] == ["998 more lines on connections were left out (998 from 192.0.2.1)"]
    assert log.until is None
    log.note(logging.INFO, "192.0.2.1", "again")
    assert caplog.messages[4:] == ["again"]


def test_a_flood_from_everywhere(log: BoundedLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10_000):
        log.note(logging.INFO, f"192.0.{number >> 8}.{number & 255}", "one")
        assert len(log._told) <= 6
        assert len(log._left_out) <= 6
    assert caplog.messages == ["one"] * 5
    log.flush(end=True)
    assert caplog.messages[5:] == [
        "9995 more lines on connections were left out (9990 from elsewhere, 1 from 192.0.0.5, 1 from 192.0.0.6)"
    ]


def test_nothing_is_said_of_nothing(log: BoundedLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log.flush(end=True)
    log.note(logging.INFO, "192.0.2.1", "one")
    clock.now = 100.0
    log.flush()
    log.flush(end=True)
    assert caplog.messages == ["one"]


def test_a_fault_of_ours_has_its_trace(log: BoundedLog, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.note(logging.ERROR, "192.0.2.1", "one", trace=True)
    assert "ZeroDivisionError" in caplog.text
