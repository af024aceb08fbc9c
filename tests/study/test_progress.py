"""What a researcher's screen shows while a study runs."""

from __future__ import annotations

import logging

import pytest

from cloister.study.progress import Screen


def test_whatever_a_line_quotes_it_stays_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Screen()("refused: \x1b[2J\nround 3 is released")
    assert [record.getMessage() for record in caplog.records] == ["refused: \\x1b[2J\\nround 3 is released"]
