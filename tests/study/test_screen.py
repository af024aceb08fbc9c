"""Lines for a person who looks at a run: on the terminal, in the log, or on the error stream."""

from __future__ import annotations

import logging

import pytest

from cloister.study.progress import Screen


def test_whatever_a_line_quotes_it_stays_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Screen()("refused: \x1b[2J\nround 3 is released")
    assert [record.getMessage() for record in caplog.records] == ["refused: \\x1b[2J\\nround 3 is released"]


def test_without_a_terminal_and_a_log_a_line_is_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    Screen()("nobody wants to know")
    Screen(always=True)(
        "round 4  void: [two] owners were there" + ", and no line is broken where a terminal's ends" * 9
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("round 4  void: [two] owners")
    assert err.count("\n") == 1


def test_a_log_that_takes_the_line_has_it_alone(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cloister"):
        Screen(always=True)("round 4  void")
    assert [record.getMessage() for record in caplog.records] == ["round 4  void"]
    assert capsys.readouterr().err == ""
