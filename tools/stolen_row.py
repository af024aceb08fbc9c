"""``python -m tools.stolen_row``: draws ``docs/stolen-row.svg``, what is read of one row in one round.

The row is a picture of scikit-learn's digits, and the model one in which a unit is active for that row alone: what its
weights moved by, over what its bias moved by, is the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from torch import Tensor

from tests.attacks import stealing
from tests.attacks.noticing import Noisy, without_noise
from tests.attacks.stealing import Scheme

FILE: Final = Path(__file__).parents[1] / "docs" / "stolen-row.svg"
RATE: Final = 0.5
MULTIPLIERS: Final = (0.1, 2.0)
DELTA: Final = 1e-5

_SIDE: Final = 8
_PIXEL: Final = 12
_GAP: Final = 20
_TEXT: Final = 40


class Panel(NamedTuple):
    """A picture, of values from 0 to 1, and two lines under it."""

    pixels: Tensor
    name: str
    cost: str


def main() -> None:
    FILE.write_text(drawn([*panels()]), encoding="utf-8")


def panels() -> Iterator[Panel]:
    """The row, and what is read of it: always with one draw, in which it is, and one noise but for its size."""
    scheme = stealing.one_unit(owner="bob")
    yield Panel(scheme.wanted, "the row", "")
    with without_noise():
        yield Panel(_read(Noisy("record", 1.0, RATE, 1), scheme), "no noise", "epsilon: no bound")
    for multiplier in MULTIPLIERS:
        study = Noisy("record", multiplier, RATE, 1)
        yield Panel(_read(study, scheme), f"noise: {multiplier:g}", f"epsilon: {study.epsilon(delta=DELTA):.2g}")


def _read(study: Noisy, scheme: Scheme) -> Tensor:
    (found,) = stealing.lucky(study, scheme, tries=1)
    weights, bias = stealing.moved(scheme, found)
    return (weights / bias).clamp(0, 1)


def drawn(found: list[Panel]) -> str:
    """As SVG: a square for each pixel, the darker the more there is."""
    size = _SIDE * _PIXEL
    width, height = len(found) * (size + _GAP) + _GAP, size + _GAP + _TEXT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="11" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for at, panel in enumerate(found):
        left = _GAP + at * (size + _GAP)
        lines += _squares(panel.pixels, left=left)
        lines.append(f'<rect x="{left}" y="{_GAP}" width="{size}" height="{size}" fill="none" stroke="#bbb"/>')
        middle = left + size // 2
        below = enumerate(filter(None, (panel.name, panel.cost)), start=1)
        lines += [f'<text x="{middle}" y="{_GAP + size + 1 + 15 * line}">{text}</text>' for line, text in below]
    return "\n".join([*lines, "</svg>", ""])


def _squares(pixels: Tensor, *, left: int) -> Iterator[str]:
    for number, value in enumerate(pixels.tolist()):
        x, y = left + number % _SIDE * _PIXEL, _GAP + number // _SIDE * _PIXEL
        shade = round(255 * (1 - value))
        yield f'<rect x="{x}" y="{y}" width="{_PIXEL}" height="{_PIXEL}" fill="rgb({shade},{shade},{shade})"/>'


if __name__ == "__main__":
    main()
