"""What every data set promises, whatever keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import ConfigurationError
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.batches import Batches, batches_in, order
from cloister.worker.data.schema import Column
from tests.worker.data.files import FORMATS, numbered

ROWS = 45


@pytest.fixture(params=FORMATS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Batches:
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return FORMATS[request.param](tmp_path, *numbered(ROWS))


def numbers(data: Batches, batch_size: int, seed: int = 1, step: int = 0) -> list[int]:
    return torch.cat([y for _, y in data.epoch(batch_size, seed=seed, step=step)]).tolist()


def test_what_it_is(data: Batches) -> None:
    assert len(data) == ROWS
    assert data.schema == (Column("x", TensorSpec("float32", (2, 3))), Column("y", TensorSpec("int64", ())))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 32, ROWS, 100])
def test_an_epoch_has_every_row_once_and_the_last_batch_is_smaller(data: Batches, batch_size: int) -> None:
    x, y = numbered(ROWS)
    batches = list(data.epoch(batch_size, seed=1, step=0))
    assert len(batches) == batches_in(ROWS, batch_size=batch_size)
    assert [len(batch[1]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    found = torch.cat([batch[1] for batch in batches])
    assert sorted(found.tolist()) == y.tolist()
    rows = torch.cat([batch[0] for batch in batches])
    assert rows.dtype == torch.float32
    assert torch.equal(rows, x[found])  # the columns stay together


def test_seed_and_step_are_the_order(data: Batches) -> None:
    first = numbers(data, 8)
    assert first != sorted(first)
    assert numbers(data, 8) == first
    assert numbers(data, 5) == first  # the batch size cuts the order and does not change it
    assert numbers(data, 8, seed=2) != first
    assert numbers(data, 8, step=6) != first
    assert numbers(data, 8, seed=2**64 - 1, step=2**40)


def test_a_batch_is_the_callers_own(data: Batches) -> None:
    for x, y in data.epoch(8, seed=1, step=0):
        x.fill_(-1)
        y.fill_(-1)
    assert min(numbers(data, 8)) == 0


def test_two_epochs_at_a_time(data: Batches) -> None:
    first, second = (data.epoch(8, seed=1, step=0) for _ in range(2))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(0, 1, 0), (-1, 1, 0), (8, -1, 0), (8, 1 << 64, 0), (8, 1, -1)])
def test_numbers_that_are_refused_at_the_call(data: Batches, numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigurationError):
        data.epoch(numbers[0], seed=numbers[1], step=numbers[2])


PICKED: dict[str, list[int]] = {
    "some": [0, 3, 6, 7, 20, 21, 22, 40, 44],
    "one": [17],
    "all": list(range(ROWS)),
}


@pytest.mark.parametrize("which", PICKED)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_picked_rows_are_those_asked_for_in_their_order(data: Batches, which: str, batch_size: int) -> None:
    x, _ = numbered(ROWS)
    rows = np.array(PICKED[which])
    batches = list(data.picked(rows, batch_size=batch_size))
    assert [len(batch[1]) for batch in batches[:-1]] == [batch_size] * (
        batches_in(len(rows), batch_size=batch_size) - 1
    )
    assert torch.cat([batch[1] for batch in batches]).tolist() == rows.tolist()
    assert torch.equal(torch.cat([batch[0] for batch in batches]), x[rows])  # the columns stay together


def test_picked_rows_are_the_callers_own(data: Batches) -> None:
    rows = np.array(PICKED["some"])
    for x, y in data.picked(rows, batch_size=4):
        x.fill_(-1)
        y.fill_(-1)
    assert torch.cat([y for _, y in data.picked(rows, batch_size=4)]).tolist() == rows.tolist()


def test_picked_in_no_batches_is_refused_at_the_call(data: Batches) -> None:
    with pytest.raises(ConfigurationError):
        data.picked(np.array([1]), batch_size=0)


def test_nothing_is_picked_of_nothing(data: Batches) -> None:
    assert not list(data.picked(np.array([], np.int64), batch_size=4))


def test_formats_that_read_rows_in_any_order_agree_on_it(tmp_path: Path) -> None:
    found = [numbers(FORMATS[name](tmp_path, *numbered(ROWS)), 8) for name in FORMATS if name != "parquet"]
    assert all(each == found[0] == order(ROWS, seed=1, step=0).tolist() for each in found)


@given(st.integers(0, 50), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_an_order_is_a_permutation(rows: int, seed: int, step: int) -> None:
    assert sorted(order(rows, seed=seed, step=step).tolist()) == list(range(rows))
