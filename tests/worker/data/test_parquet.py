"""Parquet: windows of row groups, the types of columns, and files that lie."""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import DataSetError, MissingDependencyError
from cloister.worker.data.files import Source, open_columns, open_file
from cloister.worker.data.parquet import RowGroups
from tests.worker.data.files import write_parquet

pa = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra cloister[parquet]")
pq = pytest.importorskip("pyarrow.parquet")


def column(data: Any, batch_size: int = 4, seed: int = 0, step: int = 0) -> list[Any]:
    return torch.cat([x for (x,) in data.epoch(batch_size, seed=seed, step=step)]).tolist()


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    group=st.integers(1, 15),
    window=st.integers(1, 20),
    batch_size=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_every_row_once_and_only_the_last_batch_is_smaller(
    tmp_path_factory: pytest.TempPathFactory, rows: int, group: int, window: int, batch_size: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("p") / "a.parquet"
    write_parquet(path, {"x": np.arange(rows)}, group=group)
    data = RowGroups(path, columns={"x": "x"}, window_bytes=window * 8)
    sizes = [len(x) for (x,) in data.epoch(batch_size, seed=seed, step=0)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= batch_size
    assert sorted(column(data, batch_size, seed)) == list(range(rows))


def test_the_order_is_the_one_that_is_documented(tmp_path: Path) -> None:
    """Row groups in a random order, so many to a window as fit, and rows mixed within it."""
    write_parquet(tmp_path / "a.parquet", {"x": np.arange(60)}, group=10)
    data = RowGroups(tmp_path / "a.parquet", columns={"x": "x"}, window_bytes=20 * 8)
    found = column(data)
    windows = [found[start : start + 20] for start in range(0, 60, 20)]
    groups = [sorted({row // 10 for row in window}) for window in windows]
    assert [len(each) for each in groups] == [2, 2, 2]
    assert sorted(itertools.chain(*groups)) == list(range(6))
    assert groups != [[0, 1], [2, 3], [4, 5]]
    switches = sum(a // 10 != b // 10 for a, b in itertools.pairwise(windows[0]))
    assert switches > 3  # mixed, and not one group after the other


def test_types_of_columns(tmp_path: Path) -> None:
    columns = {
        "f": np.arange(6, dtype=np.float16),
        "b": np.array([True, False] * 3),
        "u": np.arange(6, dtype=np.uint8).reshape(3, 2).repeat(2, 0),
        "deep": np.arange(36.0).reshape(6, 2, 3),
    }
    columns["u"] = columns["u"][:6]
    write_parquet(tmp_path / "a.parquet", columns, group=4)
    data = open_file(tmp_path / "a.parquet", columns=list(columns))
    assert [str(each.row) for each in data.schema] == ["float16[]", "bool[]", "uint8[2]", "float64[2, 3]"]
    (batch,) = data.epoch(10, seed=0, step=0)
    order = (batch[3][:, 0, 0] / 6).long()
    for name, found in zip(columns, batch, strict=True):
        assert torch.equal(found, torch.from_numpy(columns[name])[order])


def test_fixed_shape_tensors(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(4, 2, 3)
    write_parquet(tmp_path / "a.parquet", {"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values)}, group=4)
    data = open_file(tmp_path / "a.parquet", columns=["x"])
    assert str(data.schema[0].row) == "float64[2, 3]"
    assert sorted(column(data)) == values.tolist()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array(["a", "b"]), "holds string, which cannot be trained on"),
        (pa.array([[1.0], [2.0]]), "write it as a fixed-size list"),
        (pa.array([1, 2], pa.timestamp("s")), "timestamp"),
        (pa.array([1, 2], pa.decimal128(5)), "decimal"),
        (pa.array(["a", "b"]).dictionary_encode(), "cannot be trained on"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct"),
    ],
)
def test_columns_that_cannot_be_used_are_found_when_opened(tmp_path: Path, values: Any, text: str) -> None:
    write_parquet(tmp_path / "a.parquet", {"x": values}, group=4)
    with pytest.raises(DataSetError, match=text) as caught:
        open_file(tmp_path / "a.parquet", columns=["x"])
    assert "a.parquet" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None]),
        pa.array([[1.0, None], [2.0, 3.0]], pa.list_(pa.float64(), 2)),
        pa.array([None, [2.0, 3.0]], pa.list_(pa.float64(), 2)),
    ],
)
def test_nulls_are_refused_when_they_are_read(tmp_path: Path, values: Any) -> None:
    write_parquet(tmp_path / "a.parquet", {"x": values}, group=4)
    data = open_file(tmp_path / "a.parquet", columns=["x"])
    with pytest.raises(DataSetError, match=r"a\.parquet: column 'x' holds nulls"):
        column(data)


def test_what_cannot_be_read_is_an_error_whichever_rows_are_picked(tmp_path: Path) -> None:
    """Else an answer would tell of the one row whether it was picked."""
    write_parquet(tmp_path / "a.parquet", {"x": pa.array([1, 2, 3, 4, 5, None])}, group=2)
    data = open_file(tmp_path / "a.parquet", columns=["x"])
    for rows in ([1, 2], [1, 4], [5], [0]):
        with pytest.raises(DataSetError, match="holds nulls"):
            list(data.picked(np.array(rows), batch_size=4))


def test_row_groups_without_picked_rows_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", {"x": pa.array([1, 2, 3, 4, 5, 6])}, group=2)
    data: Any = open_file(tmp_path / "a.parquet", columns=["x"])
    read: list[list[int]] = []
    real = data._read
    monkeypatch.setattr(data, "_read", lambda groups: (read.append([*groups]), real(groups))[1])
    for _ in range(2):
        assert [x.tolist() for (x,) in data.picked(np.array([1, 2]), batch_size=4)] == [[2, 3]]
    assert read == [[0], [1], [2], [0, 1], [0, 1]]


@pytest.mark.slow
def test_metadata_that_would_end_the_process(tmp_path: Path) -> None:
    """A column chunk's type that is not its column's: what pyarrow tells of its statistics aborts. It is not asked."""
    write_parquet(tmp_path / "a.parquet", {"x": np.arange(8), "y": np.arange(8) % 3}, group=8)
    good = (tmp_path / "a.parquet").read_bytes()
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    for at in range(footer, len(good) - 8):
        (tmp_path / "a.parquet").write_bytes(good[:at] + b"\0" + good[at + 1 :])
        with suppress(DataSetError):
            data = open_file(tmp_path / "a.parquet", columns=["x", "y"], memory_bytes=1 << 20)
            assert sum(len(x) for x, _ in data.epoch(5, seed=0, step=0)) == len(data)


def test_columns_by_their_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"a.b": np.arange(3), "a": np.zeros(3)}, group=4)
    data = open_columns({"x": Source(tmp_path / "a.parquet", "a.b")})
    assert sorted(column(data)) == [0, 1, 2]
    with pytest.raises(DataSetError, match=r"no column 'b'; it holds a, a\.b"):
        open_file(tmp_path / "a.parquet", columns=["b"])
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(DataSetError, match="2 columns 'x'"):
        open_file(tmp_path / "b.parquet", columns=["x"])


def test_one_file_holds_all_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="all come from one file"):
        open_columns({"x": Source(tmp_path / "a.parquet", "x"), "y": Source(tmp_path / "b.npz", "y")})


def test_a_row_group_that_is_too_large_says_what_to_do(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"x": np.zeros((1000, 10))}, group=1000)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000  # a bomb, as Parquet goes
    with pytest.raises(DataSetError, match="80000 bytes of memory, and 79999 are allowed; write it with smaller row"):
        open_file(tmp_path / "a.parquet", columns=["x"], memory_bytes=79_999)


def test_an_empty_file_and_one_that_is_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"x": np.arange(0)}, group=4)
    with pytest.raises(DataSetError, match="no rows"):
        open_file(tmp_path / "a.parquet", columns=["x"])
    with pytest.raises(DataSetError, match="no such file"):
        open_file(tmp_path / "none.parquet", columns=["x"])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_is_refused_or_read_in_full(
    tmp_path_factory: pytest.TempPathFactory, position: float, bits: int, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("p") / "a.parquet"
    write_parquet(path, {"x": np.arange(64.0).reshape(32, 2)}, group=8)
    data = bytearray(path.read_bytes())
    at = int(position * len(data))
    if cut:
        del data[at:]
    else:
        data[at] ^= bits
    path.write_bytes(data)
    try:
        opened = open_file(path, columns=["x"], memory_bytes=1 << 20)
        found = sum(len(x) for (x,) in opened.epoch(5, seed=0, step=0))
    except DataSetError as fault:
        assert "a.parquet" in str(fault)  # noqa: PT017 - either outcome is right
    else:
        assert found == len(opened)


def test_without_pyarrow_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", {"x": np.arange(3)}, group=4)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cloister\[parquet\]'"):
        open_file(tmp_path / "a.parquet", columns=["x"])
