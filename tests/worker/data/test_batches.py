"""What every data set promises, whatever keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import ConfigurationError, DataSetError
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.batches import Batches, Column, batches_in, check_schema, order
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


def test_formats_that_read_rows_in_any_order_agree_on_it(tmp_path: Path) -> None:
    found = [numbers(FORMATS[name](tmp_path, *numbered(ROWS)), 8) for name in FORMATS if name != "parquet"]
    assert all(each == found[0] == order(ROWS, seed=1, step=0).tolist() for each in found)


@given(st.integers(0, 50), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=30)
def test_an_order_is_a_permutation(rows: int, seed: int, step: int) -> None:
    assert sorted(order(rows, seed=seed, step=step).tolist()) == list(range(rows))


X, Y = Column("pixels", TensorSpec("float32", (1, 28, 28))), Column("digit", TensorSpec("int64", ()))


def test_doubles_are_to_be_saved_as_floats() -> None:
    with pytest.raises(DataSetError, match=r"holds float64 where .* is expected: save it as float32"):
        check_schema([Column("x", TensorSpec("float64", X.row.shape))], expected=[X])
    with pytest.raises(DataSetError, match=r"is expected$"):
        check_schema([Column("y", TensorSpec("float64", Y.row.shape))], expected=[Y])


def test_columns_do_not_stand_in_each_others_place() -> None:
    """Of one type and shape, nothing else would tell: the model would learn age as pressure."""
    age, pressure = (Column(name, TensorSpec("float32", ())) for name in ("age", "pressure"))
    check_schema([age, pressure], expected=[age, pressure])
    check_schema([Column("a", age.row), Column("b", age.row)], expected=[age, pressure])
    check_schema([age, Column("b", age.row)], expected=[age, pressure])
    both = "'pressure' stands where 'age' .* which has another place: swap them; column 'age' stands where 'pressure' "
    with pytest.raises(DataSetError, match=both):
        check_schema([pressure, age], expected=[age, pressure])
    with pytest.raises(DataSetError, match="column 'b' stands where 'age' "):
        check_schema([Column("b", age.row), age], expected=[age, pressure])


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ([X], ["1 columns ('pixels' (float32[1, 28, 28]))", "2 are expected"]),
        ([X, Y, Y], ["3 columns"]),
        ([X, Column("digit", TensorSpec("int32", ()))], ["column 'digit' holds int32 where 'y' (int64[]) is expected"]),
        (
            [Column("pixels", TensorSpec("uint8", (28, 28))), Column("digit", TensorSpec("int64", (1,)))],
            [
                "column 'pixels' holds uint8 where 'x' (float32[1, 28, 28]) is expected",
                "a row of column 'pixels' is uint8[28, 28] where",
                "a row of column 'digit' is int64[1] where 'y' (int64[]) is expected",
            ],
        ),
    ],
)
def test_a_schema_that_does_not_fit_is_told_with_all_its_faults(schema: list[Any], texts: list[str]) -> None:
    expected = [Column("x", X.row), Column("y", Y.row)]
    check_schema([X, Y], expected=expected)
    with pytest.raises(DataSetError) as caught:
        check_schema(schema, expected=expected)
    for text in texts:
        assert text in str(caught.value)
