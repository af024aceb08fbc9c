"""A sum of clipped gradients is the one that a plain loop finds, and whatever a record is, its part is no larger."""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.errors import ConfigurationError, DataSetError, PlanError
from cloister.wire.fixed_point import SUM_TYPE, UNITS
from cloister.wire.layout import Layout
from cloister.worker import flatten as deltas
from cloister.worker.data.batches import RowNumbers
from cloister.worker.data.poisson import Draw, draw, fetched
from cloister.worker.data.rows import Arrays
from cloister.worker.plans import Plan, PlannedLoss
from cloister.worker.record_sums import RecordSums, longest, on_grid, within
from tests.plans.samples import HONEST
from tests.tensor.plan.steps import loss

KEY = bytes(range(32))
ROWS, CLIP, RATE = 60, 0.7, 0.3


def made(plan: Plan, model: nn.Module, **options: Any) -> RecordSums:
    given_ = {
        "parameters": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),
        "layout": deltas.layout_of(deltas.floats_of(model)),
        "clip": CLIP,
        "rate": RATE,
        "at_once": 8,
        "memory_bytes": 1 << 30,
        **options,
    }
    return RecordSums(plan, **given_)


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One record's, in float64; names in their order."""
    named = [each for _, each in sorted(model.named_parameters())]
    found = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), named)
    return torch.cat([each.flatten().double() for each in found])


def plainly(gradients: Iterable[Tensor], *, clip: float) -> Tensor:
    """One after the other shortened, put on the grid and added up."""
    total = torch.tensor(0)
    for each in gradients:
        limit = (UNITS - math.sqrt(len(each)) / 2 - 1) / UNITS * clip
        total = total - (each * min(1.0, limit / float(each.norm())) / clip * UNITS).round().long()
    return total


def rows_of(name: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    x = HONEST[name].batch[0]
    generator = torch.Generator().manual_seed(2)
    shape = (ROWS, *x.shape[1:])
    double = next(model.parameters()).dtype == torch.float64
    floats = torch.randn(shape, generator=generator, dtype=torch.float64 if double else torch.float32)
    labels = torch.randint(3, (ROWS,), generator=generator)
    return floats if x.is_floating_point() else torch.randint(9, shape, generator=generator), labels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ["mlp", "lenet", "group norm", "transformer", "embedding", "lstm", "layer norm"])
def test_it_is_what_a_plain_loop_finds(name: str, double: bool) -> None:
    torch.manual_seed(3)
    model = HONEST[name].model()
    model = model.double() if double else model
    x, y = rows_of(name, model)
    plan = loss.capture(model, example=(x[:4], y[:4]))
    data = Arrays({"x": x, "y": y})
    gradients = [gradient(model, x[at], y[at]) for at in range(ROWS)]
    clip = sorted(float(each.norm()) for each in gradients)[ROWS // 2]  # half of the records are clipped
    sums = made(plan, model, clip=clip)
    assert not sums.gradients.replayed
    got = sums.run(data, key=KEY, most_rows=ROWS)
    chosen = draw(ROWS, rate=RATE, key=KEY, most=ROWS)
    taken = chosen.rows[chosen.drawn].tolist()
    assert len(taken) > 5
    expected = plainly([gradients[at] for at in taken], clip=clip)
    apart = (got.sums - expected).abs()
    assert got.sums.dtype == getattr(torch, SUM_TYPE)
    assert int(apart.max()) <= (1 if double else len(taken))
    assert float(apart.double().mean()) < (1e-3 if double else 0.1)
    assert float(got.sums.double().norm()) > UNITS
    assert got.left_out == 0


@cache
def small(planned: PlannedLoss = loss) -> Plan:
    return planned.capture(model_of(), example=(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)))


def model_of(*, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(6, 3)


def records(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 6, generator=generator), torch.arange(rows) % 3


def data_of(x: Tensor, y: Tensor) -> Arrays:
    return Arrays({"x": x, "y": y})


def alone(sums: RecordSums, data: Arrays, row: int) -> list[int]:
    """What one record adds."""
    chosen = Draw(np.arange(len(data)), np.arange(len(data)) == row)
    return sums.over(data, chosen, seed=0).sums.tolist()  # type: ignore[no-any-return]


def square(vector: list[int]) -> int:
    return sum(each * each for each in vector)


def test_it_is_the_sum_of_what_each_record_adds_in_whole_numbers() -> None:
    sums, data = made(small(), model_of()), data_of(*records(20))
    each = torch.tensor([alone(sums, data, row) for row in range(20)])
    for key in (KEY, bytes(32)):
        chosen = draw(20, rate=RATE, key=key, most=20)
        found = sums.run(data, key=key, most_rows=20).sums
        assert torch.equal(found.long(), each[torch.from_numpy(chosen.rows[chosen.drawn])].sum(0))
        assert found.any()


@torch.no_grad()
def test_it_goes_downhill() -> None:
    model, (x, y) = model_of(), records()
    change = made(small(), model, rate=1.0, clip=100.0).run(data_of(x, y), key=KEY, most_rows=ROWS).sums
    before = F.cross_entropy(model(x), y)
    tensors = deltas.floats_of(model)
    layout = deltas.layout_of(tensors)
    start = deltas.flatten(tensors, layout=layout)
    deltas.unflatten(start + change * (100.0 / UNITS / ROWS), layout=layout, into=tensors)
    assert F.cross_entropy(model(x), y) < before - 0.1


@pytest.mark.parametrize("at_once", [1, 7, 60, 1000])
def test_how_many_are_computed_at_once_makes_no_difference(at_once: int) -> None:
    """In float64, where no value is near the middle between two units."""
    model = model_of().double()
    x, y = records()
    plan = loss.capture(model, example=(x[:4].double(), y[:4]))
    first, other = (
        made(plan, model, at_once=each).run(data_of(x.double(), y), key=KEY, most_rows=ROWS).sums
        for each in (8, at_once)
    )
    assert torch.equal(first, other)


def test_it_is_a_function_of_its_arguments_and_leaves_them() -> None:
    model, (x, y) = model_of(), records()
    before = [each.clone() for each in (x, y, *model.parameters())]
    sums = made(small(), model)
    first = sums.run(data_of(x, y), key=KEY, most_rows=ROWS)
    assert torch.equal(sums.run(data_of(x, y), key=KEY, most_rows=ROWS).sums, first.sums)
    assert not torch.equal(sums.run(data_of(x, y), key=bytes(32), most_rows=ROWS).sums, first.sums)
    assert all(map(torch.equal, before, (x, y, *model.parameters())))


class Watched(Arrays):
    """A data set that remembers how many rows it gave at a time."""

    __slots__ = ("given",)

    def picked(self, rows: RowNumbers, *, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
        self.given: list[int] = []
        for batch in super().picked(rows, batch_size=batch_size):
            self.given.append(len(batch[0]))
            yield batch


def test_what_is_computed_does_not_depend_on_how_many_are_drawn() -> None:
    x, y = records(400)
    data = Watched({"x": x, "y": y})
    sums = made(small(), model_of(), rate=0.1, at_once=16)
    seen, drawn = set(), set()
    for at in range(8):
        sums.run(data, key=bytes([at] * 32), most_rows=ROWS)
        seen.add(tuple(data.given))
        drawn.add(int(draw(400, rate=0.1, key=bytes([at] * 32), most=ROWS).drawn.sum()))
    assert seen == {(16, 16, 16, 12)}
    assert len(drawn) > 4


def test_memory_does_not_grow_with_what_is_drawn() -> None:
    x, y = records(400)
    data = Watched({"x": x, "y": y})
    for rate in (0.01, 0.1, 1.0):
        made(small(), model_of(), rate=rate, at_once=16).run(data, key=KEY, most_rows=400)
        assert max(data.given) == min(16, sum(data.given))
        assert sum(data.given) == fetched(400, rate=rate, most=400)


class Partly(nn.Module):
    """A layer that is not trained, a buffer of numbers, one of whole numbers, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Parameter(torch.ones(4))
        self.register_buffer("scale", torch.full((6,), 2.0))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.before(x) * self.scale)  # type: ignore[no-any-return]


def test_what_is_not_trained_is_zero_and_clipping_is_over_the_rest() -> None:
    torch.manual_seed(0)
    model, (x, y) = Partly(), records()
    sums = made(loss.capture(model, example=(x[:4], y[:4])), model, rate=1.0, clip=1e-3)
    found = sums.run(data_of(x, y), key=KEY, most_rows=ROWS).sums
    layout = deltas.layout_of(deltas.floats_of(model))
    parts = {place.name: found[place.start : place.stop] for place in layout.places}
    assert {name for name, part in parts.items() if part.any()} == {"head.weight", "head.bias"}
    assert sorted(parts) == ["before.bias", "before.weight", "head.bias", "head.weight", "scale", "unused"]
    one = alone(sums, data_of(x, y), 0)
    assert UNITS - math.sqrt(21) - 2 < math.sqrt(square(one)) <= UNITS


@cloister.plan
def products(model: nn.Module, x: Tensor) -> Tensor:
    """Its gradient is the record."""
    return (model.weight * x).sum() / x.shape[0]  # type: ignore[operator]


@cache
def weights() -> tuple[Plan, nn.Module]:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    return products.capture(model, example=(torch.zeros(4, 3, dtype=torch.float64),)), model


def one_by_one(rows: list[list[float]], *, clip: float = 1.0) -> list[list[int]]:
    """What each of some records adds whose gradients they are."""
    plan, model = weights()
    sums = made(plan, model, clip=clip)
    data = Arrays({"x": torch.tensor(rows, dtype=torch.float64)})
    return [alone(sums, data, row) for row in range(len(rows))]


def test_a_unit_is_the_clip_divided_by_units_and_values_are_rounded_to_the_nearest() -> None:
    unit = 0.25 / UNITS
    found = one_by_one([[unit, -2 * unit, 0.0], [0.49 * unit, 0.51 * unit, -7.6 * unit]], clip=0.25)
    assert found == [[-1, 2, 0], [0, -1, 8]]


def test_a_longer_gradient_is_scaled_down_and_a_shorter_one_is_not() -> None:
    limit = UNITS - math.sqrt(3) / 2 - 1
    found = one_by_one([[3.0, 0.0, -4.0], [0.3, 0.0, -0.4], [1e-9, 0.0, 0.0]])
    assert found[0] == [-round(0.6 * limit), 0, round(0.8 * limit)]
    assert found[1] == [-round(0.3 * UNITS), 0, round(0.4 * UNITS)]
    assert found[2] == [0, 0, 0]


def test_gradients_of_any_size_are_clipped_to_the_same() -> None:
    """Squares of these would be infinite, or nothing."""
    found = one_by_one([[3 * 10.0**e, 0.0, -4 * 10.0**e] for e in (0, 20, 200, 307)])
    assert found == [found[0]] * 4
    tiny = one_by_one([[3e-30, 0.0, -4e-30]], clip=1e-30)
    assert tiny == found[:1]
    assert one_by_one([[5e-324, 0.0, 0.0]]) == [[0, 0, 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_counts_as_zeros_and_is_counted(value: float) -> None:
    plan, model = weights()
    sums = made(plan, model, rate=1.0)
    good = [[0.1, 0.2, 0.3], [0.3, 0.1, -0.2]]
    found = sums.run(Arrays({"x": torch.tensor([good[0], [0.0, value, 0.1], good[1]]).double()}), key=KEY, most_rows=3)
    assert found.left_out == 1
    expected = sums.run(Arrays({"x": torch.tensor(good).double()}), key=KEY, most_rows=3)
    assert torch.equal(found.sums, expected.sums)
    assert expected.left_out == 0


def test_only_what_was_drawn_is_counted_as_left_out() -> None:
    plan, model = weights()
    x = torch.full((ROWS, 3), math.nan, dtype=torch.float64)
    found = made(plan, model).run(Arrays({"x": x}), key=KEY, most_rows=ROWS)
    assert found.left_out == int(draw(ROWS, rate=RATE, key=KEY, most=ROWS).drawn.sum())
    assert not found.sums.any()


def test_labels_out_of_range_count_as_zeros() -> None:
    (x, y), sums = records(), made(small(), model_of(), rate=1.0)
    expected = sums.over(data_of(x, y), Draw(np.arange(ROWS), np.arange(ROWS) != 11), seed=0)
    y[11] = 99
    found = sums.run(data_of(x, y), key=KEY, most_rows=ROWS)
    assert torch.equal(found.sums, expected.sums)
    assert (found.left_out, expected.left_out) == (1, 0)


def test_a_number_too_large_for_the_plan_counts_as_zeros() -> None:
    (x, y), sums = records(), made(small(), model_of(), rate=1.0)
    expected = sums.over(data_of(x, y), Draw(np.arange(ROWS), np.arange(ROWS) != 11), seed=0)
    x = x.double()
    x[11, 2] = 1e39
    found = sums.run(data_of(x, y), key=KEY, most_rows=ROWS)
    assert torch.equal(found.sums, expected.sums)
    assert found.left_out == 1


def test_sums_that_do_not_fit_are_the_nearest_that_do() -> None:
    """2^31 units are those of 32,769 such records, a little shorter than the clip."""
    plan, model = weights()
    sums = made(plan, model, rate=1.0, at_once=1 << 14)
    rows = 33_000
    for sign in (1.0, -1.0):
        x = torch.zeros(rows, 3, dtype=torch.float64)
        x[:, 1] = sign * 2
        assert sums.run(Arrays({"x": x}), key=KEY, most_rows=rows).sums.tolist() == [0, -sign * (2**31 - 1), 0]
        one_less = sums.over(Arrays({"x": x}), Draw(np.arange(rows), np.arange(rows) >= 300), seed=0)
        assert one_less.sums.tolist() == [0, -sign * (rows - 300) * round(UNITS - math.sqrt(3) / 2 - 1), 0]


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=40), st.floats(0.01, 100))
def test_rounding_lengthens_nothing_over_the_clip(values: list[float], scale: float) -> None:
    """Values with halves of units, the worst for rounding, at the norm that is allowed."""
    vector = torch.tensor([values], dtype=torch.float64)
    units = on_grid(vector * scale, clip=1.0)
    assert square([int(each) for each in units[0]]) <= UNITS**2
    assert bool(within(units)[0])


def test_clipping_leaves_the_room_that_rounding_needs() -> None:
    """Without it, all values were 655.52 units and were rounded up: a norm of 65,583."""
    length = 9995
    assert UNITS / math.sqrt(length) > 655.5
    assert 656**2 * length > UNITS**2
    [units] = on_grid(torch.ones(1, length, dtype=torch.float64), clip=1.0).long().tolist()
    assert set(units) == {655}
    assert longest(10_000) == UNITS - 51


def test_norms_are_compared_in_whole_numbers() -> None:
    exact, over = [UNITS, 0, 0], [UNITS, 1, 0]
    half = UNITS // 2
    many = [half, half, half, half]
    units = torch.tensor([exact, over, [0, -UNITS, 0], [-1, UNITS, 0], [0, 0, 0]], dtype=torch.float64)
    assert within(units).tolist() == [True, False, True, False, True]
    assert within(torch.tensor([many, [half, half, half, half + 1]], dtype=torch.float64)).tolist() == [True, False]
    huge = torch.tensor([[1e30, 0.0], [-1e308, 1e308], [2.0**26, 2.0**26], [math.nan, 0.0], [math.inf, 0.0]])
    assert within(huge.double()).tolist() == [False] * 5


def test_a_vector_that_is_too_long_on_the_grid_counts_as_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should clipping ever leave it so: here, it leaves some of these a unit or two too long."""
    plan, model = weights()
    data = Arrays({"x": torch.randn(40, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 10})
    sums = made(plan, model, rate=1.0)
    monkeypatch.setattr("cloister.worker.record_sums.longest", lambda length: UNITS + 0.5)
    found = sums.run(data, key=KEY, most_rows=40)
    each = [alone(sums, data, row) for row in range(40)]
    assert all(square(one) <= UNITS**2 for one in each)
    assert 0 < found.left_out == sum(not any(one) for one in each) < 40
    assert found.sums.tolist() == [sum(column) for column in zip(*each, strict=True)]


@cloister.plan
def noisy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(F.dropout(x, 0.4)), y)


def test_random_numbers_are_of_the_key_and_the_record() -> None:
    model, (x, y) = model_of(), records()
    sums = made(small(noisy), model, rate=1.0, clip=1e3)
    assert "draws random numbers" in sums.gradients.replayed
    found = sums.run(data_of(x, y), key=KEY, most_rows=ROWS).sums
    seed = int.from_bytes(hmac.digest(KEY, b"cloister steps of records 1\0", "sha256")[:8], "big")
    expected = torch.zeros(21, dtype=torch.int64)
    for row in range(ROWS):
        step = small(noisy).step(
            dict(model.named_parameters()), {}, (x[row : row + 1], y[row : row + 1]), seed=seed, step=row
        )
        gradient = torch.cat([step.gradients[name].flatten().double() for name in ("bias", "weight")])
        expected -= (gradient / 1e3 * UNITS).round().long()
    assert torch.equal(found.long(), expected)
    other = made(small(noisy), model, rate=1.0, clip=1e3, at_once=5).run(data_of(x, y), key=KEY, most_rows=ROWS)
    assert torch.equal(other.sums, found)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clip": 0.0}, "clip is 0.0; it is a norm of at least 1e-30"),
        ({"clip": math.nan}, "clip is nan"),
        ({"clip": math.inf}, "clip is inf"),
        ({"rate": 0.0}, "the rate of a draw is 0.0"),
        ({"rate": 1.5}, "the rate of a draw is 1.5"),
        ({"at_once": 0}, "at_once is 0; at least 1 record"),
        ({"parameters": {}}, "there are no parameters to train"),
        (
            {"layout": Layout(())},
            r"no place for the parameter 'weight', float32\[3, 6\]; give that of the plan's model",
        ),
        (
            {"layout": deltas.layout_of({"bias": torch.zeros(3), "weight": torch.zeros(3, 5)})},
            r"no place for the parameter 'weight', float32\[3, 6\]",
        ),
        ({"layout": deltas.layout_of({"weight": torch.zeros(3, 6)})}, "no place for the parameter 'bias'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        made(small(), model_of(), **options)


def test_a_data_set_that_does_not_fit_and_a_key_that_is_none() -> None:
    sums = made(small(), model_of())
    with pytest.raises(DataSetError, match="1 columns"):
        sums.run(Arrays({"x": torch.zeros(4, 6)}), key=KEY, most_rows=4)
    with pytest.raises(ConfigurationError, match="the key of a draw has 3 bytes"):
        sums.run(data_of(*records()), key=b"key", most_rows=4)


def test_a_plan_whose_tensors_these_are_not() -> None:
    with pytest.raises(PlanError, match="the plan needs the parameter 'weight'"):
        made(small(), nn.Linear(5, 3))


def test_nothing_to_train() -> None:
    model = nn.Linear(6, 3)
    model.requires_grad_(False)

    @cloister.plan
    def nothing(model: nn.Module, x: Tensor) -> Tensor:
        return (x * model.weight.sum()).sum()  # type: ignore[operator, union-attr]

    with pytest.raises((ConfigurationError, PlanError)):
        made(nothing.capture(model, example=(torch.zeros(4, 6),)), model)


def test_so_many_values_that_rounding_would_take_half_of_the_clip() -> None:
    assert longest(UNITS**2) == UNITS / 2 - 1
    for length in (0, UNITS**2 + 1):
        with pytest.raises(ConfigurationError, match=rf"has {length:,} values that are trained"):
            longest(length)
