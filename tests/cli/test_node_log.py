"""What ``cloister node log`` prints: each round with its noise, and what is left of both budgets of a data set."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cloister.cli.node_log import as_text, show, told_of
from cloister.ledger.records import Noised
from cloister.node.study.budgets import Budget, Line, Privacy
from cloister.node.study.journal import Records
from tests.support.members import charter, hidden

RECORD, OWNER = Noised("record", 2.0, 0.25, 1.0), Noised("owner", 3.5, 1.0, 1.0)
LEFT = [Budget("#mri", 2, 100, 98)]


def line(number: int, noise: Noised | None = None, **changed: Any) -> Line:
    given = {"data": "#mri", "contributed": True, "committed": "member", "spent": True, "released": True}
    return Line("5a" * 32, number, noise=noise, **given | changed)


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *found: Any) -> list[list[str]]:
    """The cells of each line."""
    monkeypatch.setenv("COLUMNS", "140")
    show(*found)
    rows = (row.replace("┃", "│").strip("│ ") for row in capsys.readouterr().out.splitlines())
    return [[cell.strip() for cell in row.split("│")] for row in rows]


def test_each_rounds_noise_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [line(1, RECORD), line(2, OWNER), line(3), line(4, contributed=False)]
    privacy = [
        Privacy("#mri", 2, 0, 1e-6, 1.23401, 3.0, 1.76599),
        Privacy("#ct", 2, 1, 1e-6, None, 3.0, 0.0),
        Privacy("#x", 2, 0, 1e-5, None, None, None),
    ]
    rows = shown(capsys, monkeypatch, rounds, LEFT, privacy)
    assert [row[4] for row in rows if len(row) == 8] == [
        "noise", "2 x record, rate 0.25", "3.5 x owner", "none", "-",
    ]  # fmt: skip
    assert ["#mri", "2", "100", "98"] in rows
    assert [row for row in rows if len(row) == 6] == [
        ["data set", "rounds with noise", "epsilon spent", "at delta", "allowed", "left"],
        ["#mri", "2", "1.235", "1e-06", "3", "1.766"],
        ["#ct", "2", "no bound: 1 without noise", "1e-06", "3", "0"],
        ["#x", "2", "over 10,000", "1e-05", "any", "any"],
    ]


def test_machines_get_every_digit() -> None:
    privacy = [Privacy("#mri", 1, 0, 1e-6, 1.2340123456789, None, None)]
    told = json.loads(as_text([line(1, RECORD), line(2)], LEFT, privacy))
    assert [each["noise"] for each in told["rounds"]] == [
        {"unit": "record", "multiplier": 2.0, "rate": 0.25, "clip": 1.0},
        None,
    ]
    assert told["budgets"] == [{"data": "#mri", "spent": 2, "most": 100, "left": 98}]
    assert told["privacy"] == [
        {
            "data": "#mri",
            "rounds": 1,
            "without_noise": 0,
            "delta": 1e-6,
            "spent": 1.2340123456789,
            "allowed": None,
            "left": None,
        }
    ]


def test_nothing_is_told_of_privacy_where_there_is_no_noise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "epsilon" not in str(shown(capsys, monkeypatch, [line(1)], LEFT, []))


def test_where_the_accountant_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Records, "noises", lambda self, data: (Noised("record", 2.718, 0.25, 1.0),))
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    found = told_of(Records(None), {"#mri": None}, [charter(**hidden())])
    assert "pip install 'cloister[noise]'" in found
    assert "pip install" in str(shown(capsys, monkeypatch, [line(1, RECORD)], LEFT, found))
    assert json.loads(as_text([line(1, RECORD)], LEFT, found))["privacy"] is None


def test_what_stands_in_the_records_steers_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = "add\x1b[2J\u202e"
    show([line(1, data=forged)], [Budget(forged, 0, 1, 1)], [Privacy(forged, 0, 0, 1e-5, 0.0, None, None)])
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert out.count("x1b") == 3
