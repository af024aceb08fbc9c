"""The picture of a row that is read is what comes out."""

from __future__ import annotations

import re

import pytest
import torch

from tools import stolen_row


def shades(drawing: str) -> list[int]:
    return [int(each) for each in re.findall(r"rgb\((\d+),", drawing)]


@pytest.mark.slow
def test_the_page_shows_what_is_read() -> None:
    found = [*stolen_row.panels()]
    now, shown = stolen_row.drawn(found), stolen_row.FILE.read_text(encoding="utf-8")
    assert re.sub(r"rgb\(.*?\)", "", now) == re.sub(r"rgb\(.*?\)", "", shown), "run python -m tools.stolen_row"
    # What a processor rounds otherwise may be a shade more or less.
    assert max(abs(one - other) for one, other in zip(shades(now), shades(shown), strict=True)) <= 1


@pytest.mark.slow
def test_without_noise_it_is_the_row_and_with_it_less_and_less_so() -> None:
    row, *read = (panel.pixels for panel in stolen_row.panels())
    apart = [float(torch.dist(row, each)) for each in read]
    assert apart[0] < 0.01
    assert apart == sorted(apart)
    assert apart[-1] > float(torch.dist(row, torch.full_like(row, 0.5))), "a grey square would be nearer"
