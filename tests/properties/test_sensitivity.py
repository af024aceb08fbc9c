"""No record moves a sum by more than the clip: tried out on every record of many data sets, in whole numbers.

For each draw, each of its records is left out once, and what it was is then replaced by something else: the first moves
the sum by ``UNITS`` at most, and the second by nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.wire.fixed_point import UNITS
from cloister.worker import flatten as deltas
from cloister.worker.data.poisson import Draw
from cloister.worker.data.rows import Arrays
from cloister.worker.record_sums import RecordSums, on_grid, within

MODELS: Final = 250
"""Of each family."""
ROWS: Final = 5
WEIGHTS: Final = (*[1.0] * 16, 0.0, 1e-20, 100.0, 1e10, 1e30, 1e38)
VALUES: Final = (0.0, 1e-42, 1e-10, 1e5, -1e30, 3e38, torch.inf, -torch.inf, torch.nan)
CLIPS: Final = (1e-30, 1e-6, 0.1, 1.0, 30.0, 1e20)


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


@cloister.plan
def squares(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A loss whose gradients grow with the errors."""
    return F.mse_loss(model(x)[:, 0], y.float())


class Words(nn.Module):
    """A table whose rows the records name, with attention over them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        words = self.table(x)
        return self.head(self.attention(words, words, words, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]


class Family(NamedTuple):
    """Models of one kind, and what a row of their data is; whole numbers are below 7."""

    step: Callable[..., object]
    model: Callable[[], nn.Module]
    row: tuple[int, ...]
    whole: bool = False


FAMILIES: Final = {
    "linear": Family(squares, lambda: nn.Linear(6, 3), (6,)),
    "mlp": Family(loss, lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (6,)),
    "convolution": Family(
        loss,
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        ),
        (1, 6, 6),
    ),
    "words": Family(loss, Words, (5,), whole=True),
}


def records(family: Family, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of which about half hold what no model is made for, and some are the same."""
    if family.whole:
        x = torch.randint(7, (ROWS, *family.row), generator=chance)
        x[torch.randint(9, x.shape, generator=chance) == 0] = int(torch.randint(-2, 12, (), generator=chance))
    else:
        x = torch.randn(ROWS, *family.row, generator=chance)
        for row in range(ROWS):
            if torch.rand((), generator=chance) < 0.4:
                value = VALUES[int(torch.randint(len(VALUES), (), generator=chance))]
                x[row][torch.rand(family.row, generator=chance) < 0.5] = value
    y = torch.randint(4, (ROWS,), generator=chance)  # 3 is no label
    if torch.rand((), generator=chance) < 0.3:
        x[:], y[:] = x[:1].clone(), y[:1].clone()
    return x, y


def wild(model: nn.Module, chance: torch.Generator) -> None:
    """Some of its values, or all, far larger or smaller."""
    with torch.no_grad():
        for each in model.parameters():
            each.normal_(generator=chance).mul_(WEIGHTS[int(torch.randint(len(WEIGHTS), (), generator=chance))])


def square(vector: Tensor) -> int:
    return sum(each * each for each in vector.tolist())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("name", FAMILIES)
def test_no_record_moves_a_sum_by_more_than_the_clip(name: str) -> None:
    family, chance = FAMILIES[name], torch.Generator().manual_seed(len(name))
    torch.manual_seed(0)
    model = family.model()
    plan = family.step.capture(model, example=records(family, chance))  # type: ignore[attr-defined]
    layout, everyone = deltas.layout_of(deltas.floats_of(model)), np.arange(ROWS)
    longest = usual = 0
    for _ in range(MODELS):
        wild(model, chance)
        sums = RecordSums(
            plan,
            parameters=dict(model.named_parameters()),
            buffers=dict(model.named_buffers()),
            layout=layout,
            clip=CLIPS[int(torch.randint(len(CLIPS), (), generator=chance))],
            rate=1.0,
            at_once=3,
            memory_bytes=1 << 20,
        )
        (x, y), (other_x, other_y) = records(family, chance), records(family, chance)
        whole = sums.over(Arrays({"x": x, "y": y}), Draw(everyone, everyone >= 0), seed=0)
        for row in range(ROWS):
            others = Draw(everyone, everyone != row)
            without = sums.over(Arrays({"x": x, "y": y}), others, seed=0)
            moved = square(whole.sums.long() - without.sums.long())
            assert moved <= UNITS**2
            longest, usual = max(longest, moved), usual + bool(moved)
            changed_x, changed_y = x.clone(), y.clone()
            changed_x[row], changed_y[row] = other_x[row], other_y[row]
            changed = sums.over(Arrays({"x": changed_x, "y": changed_y}), others, seed=0)
            assert torch.equal(changed.sums, without.sums)
    assert longest > 0.99 * UNITS**2  # the bound is reached, or nearly
    assert usual > MODELS  # and not by gradients of nothing but zeros


def test_no_gradient_is_longer_than_the_clip_on_the_grid() -> None:
    """400 matrices of any length and scale, with what is no number among them."""
    chance = torch.Generator().manual_seed(1)
    seen = 0
    for at in range(400):
        length = 1 + at * at // 40
        exponents = torch.randint(-300, 300, (4, 1), generator=chance).double()
        vectors = torch.randn(4, length, generator=chance, dtype=torch.float64) * 10**exponents
        vectors[0, at % length] = VALUES[at % len(VALUES)]
        vectors[1] = vectors[1].sign() * (0.5 + at % 7)  # all alike, so that all may be rounded up
        units = on_grid(vectors, clip=CLIPS[at % len(CLIPS)])
        for each, fits in zip(units, within(units).tolist(), strict=True):
            if fits:
                assert int(each.long().square().sum()) <= UNITS**2
            assert fits is bool(each.isfinite().all())  # what is finite has room on the grid
            seen += fits
    assert seen > 1400
