"""The numbers of docs/privacy.md are those that come out, and so is what it shows as printed."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.accounting.accountant import Spent, epsilon
from cloister.accounting.guessing import most_often_right
from cloister.cli.study import app

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
DELTA = 1e-5


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading that begin with a number, row by row."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = [re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    return [cells for cells in found if re.fullmatch(r"[\d.]+", cells[0])]


def digits(number: str) -> int:
    return len(number.partition(".")[2])


def test_the_table_of_guesses() -> None:
    found = rows("What it bounds")
    assert [cells[0] for cells in found] == ["0", "0.1", "0.5", "1", "2", "4", "8"]
    for number, right, odds in found:
        assert right == f"{100 * most_often_right(float(number), delta=DELTA):.{digits(right)}f}"
        against = odds.removesuffix(" to 1") if odds != "even" else "1"
        assert against == f"{math.exp(float(number)):.{digits(against)}f}"


@pytest.mark.slow
def test_the_table_of_costs() -> None:
    found = rows("What it costs")
    assert [cells[0] for cells in found] == ["2", "4", "8"]
    for multiplier, spent, right, _ in found:
        counted = epsilon([Spent(float(multiplier), 0.2, 60)], delta=DELTA)
        assert spent == f"{counted:.{digits(spent)}f}"
        assert right == f"{100 * most_often_right(counted, delta=DELTA):.{digits(right)}f}"


@pytest.mark.slow
def test_what_is_shown_as_printed_is_printed() -> None:
    [block] = re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
    command, _, printed = block.partition("\n")
    assert command.startswith("$ cloister study ")
    assert CliRunner().invoke(app, shlex.split(command)[3:]).output == printed
