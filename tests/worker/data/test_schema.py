"""What a training takes of a data set: columns in their places, of types that are the plan's or become them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import ConfigurationError, DataSetError
from cloister.wire.tensors import ITEM_BYTES, TensorSpec
from cloister.worker.data.converted import fitted
from cloister.worker.data.rows import Arrays
from cloister.worker.data.schema import Column, check_schema, converts
from tests.worker.data.files import FORMATS, numbered

ROWS = 45
X, Y = Column("pixels", TensorSpec("float32", (1, 28, 28))), Column("digit", TensorSpec("int64", ()))


KINDS = [*map(str, ITEM_BYTES)]
FLOATS = {"float16", "bfloat16", "float32", "float64"}
WIDER = {
    "int16": {"int8", "uint8"},
    "int32": {"int8", "uint8", "int16", "uint16"},
    "int64": {"int8", "uint8", "int16", "uint16", "int32", "uint32"},
    "uint16": {"uint8"},
    "uint32": {"uint8", "uint16"},
    "uint64": {"uint8", "uint16", "uint32"},
    "float32": FLOATS,
    "float64": FLOATS,
}


def test_which_element_types_are_converted_and_no_others() -> None:
    for wanted in KINDS:
        assert {found for found in KINDS if converts(found, wanted)} == WIDER.get(wanted, set()) | {wanted}


@given(st.sampled_from(sorted(set(WIDER) - {"float32", "float64"})), st.data())
def test_what_is_converted_keeps_every_whole_number(wanted: str, data: st.DataObject) -> None:
    limits = np.iinfo(data.draw(st.sampled_from(sorted(WIDER[wanted]))))
    value = data.draw(st.integers(int(limits.min), int(limits.max)))
    held = torch.tensor([value], dtype=getattr(torch, str(limits.dtype)))
    column = [Column("n", TensorSpec(wanted, ()))]
    [(found,)] = fitted(Arrays({"n": held}), expected=column).epoch(1, seed=0, step=0)
    assert found.dtype == getattr(torch, wanted)
    assert found.tolist() == [value]


def test_doubles_and_short_labels_are_given_as_the_plan_takes_them(tmp_path: Path) -> None:
    """Whatever they are stored in, and in the order that they would have had."""
    x, y = numbered(ROWS)
    expected = [Column("x", TensorSpec("float32", (2, 3))), Column("y", TensorSpec("int64", ()))]
    for name, make in FORMATS.items():
        (tmp_path / name).mkdir()
        stored = make(tmp_path / name, x.double() / 3, y.int())
        data = fitted(stored, expected=expected)
        assert fitted(data, expected=expected) is data
        assert [column.row for column in data.schema] == [column.row for column in expected]
        pairs = zip(data.epoch(8, seed=1, step=0), stored.epoch(8, seed=1, step=0), strict=True)
        for (x_found, y_found), (x_stored, y_stored) in pairs:
            assert torch.equal(x_found, x_stored.float())
            assert torch.equal(y_found, y_stored.long())
            assert y_found.dtype == torch.int64


def test_a_number_too_large_for_its_column_is_refused_and_infinities_stay() -> None:
    expected = [Column("pressure", TensorSpec("float32", ()))]
    stay = fitted(Arrays({"mmHg": torch.tensor([float("inf"), float("nan")], dtype=torch.float64)}), expected=expected)
    [(found,)] = stay.epoch(2, seed=0, step=0)
    assert found.dtype == torch.float32
    large = fitted(Arrays({"mmHg": torch.tensor([1.0, 1e39], dtype=torch.float64)}), expected=expected)
    with pytest.raises(DataSetError, match="column 'mmHg' holds a number that is too large for float32"):
        list(large.epoch(2, seed=0, step=0))


def test_of_picked_rows_a_number_too_large_for_its_column_is_infinite() -> None:
    """An error would tell that such a row is among them."""
    expected = [Column("pressure", TensorSpec("float32", ()))]
    large = fitted(Arrays({"mmHg": torch.tensor([1.0, 1e39, 2.0], dtype=torch.float64)}), expected=expected)
    [(found,)] = large.picked(np.array([0, 1]), batch_size=2)
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, float("inf")]
    with pytest.raises(ConfigurationError):
        large.picked(np.array([0]), batch_size=0)


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
        (
            [X, Column("digit", TensorSpec("float64", ()))],
            ["column 'digit' holds float64 where 'y' (int64[]) is expected: save it as int64"],
        ),
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
