"""Files that are right, files that lie, and files that are larger than they look."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cloister.errors import DataSetError
from cloister.worker.data.batches import Batches
from cloister.worker.data.files import Source, open_columns, open_file

NUMPY_TYPES = "bool u1 i1 i2 u2 i4 u4 i8 u8 f2 f4 f8 c8 c16".split()
TORCH_TYPES = [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64, torch.complex64]


def opened(path: Path, **options: Any) -> Batches:
    return open_columns({"x": Source(path, "" if path.suffix == ".npy" else "x")}, **options)


def rows_of(data: Batches) -> torch.Tensor:
    """The values, in their order in the file."""
    from cloister.worker.data.batches import order

    taken = torch.cat([x for (x,) in data.epoch(3, seed=0, step=0)])
    back = np.argsort(order(len(data), seed=0, step=0))
    return taken[torch.from_numpy(back)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
@pytest.mark.parametrize("shape", [(5,), (4, 2, 3)])
def test_what_numpy_writes(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) % 3).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    for name in ("a.npy", "a.npz"):
        found = rows_of(opened(tmp_path / name))
        assert found.numpy().dtype == array.dtype
        assert np.array_equal(found.numpy(), array)


@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_what_safetensors_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    x = (torch.arange(10).view(5, 2) % 3).to(dtype)
    save_file({"odd": torch.zeros(3, dtype=torch.bool), "x": x}, tmp_path / "a.safetensors", metadata={"made": "today"})
    found = rows_of(opened(tmp_path / "a.safetensors"))
    assert found.dtype == dtype
    assert torch.equal(found, x)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy(tmp_path: Path, version: tuple[int, int]) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(4.0), version=version)
    assert rows_of(opened(tmp_path / "a.npy")).tolist() == [0, 1, 2, 3]


def test_columns_from_several_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    np.savez(tmp_path / "b.npz", y=np.arange(3))
    data = open_columns({"inputs": Source(tmp_path / "x.npy"), "labels": Source(tmp_path / "b.npz", "y")})
    assert [str(column) for column in data.schema] == ["'inputs' (float64[2])", "'labels' (int64[])"]


# --- What cannot be used


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([{}, 1], dtype=object), "Python objects"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "several fields"),
        (np.zeros(2, dtype=">f4"), "'>f4' cannot be used"),
        (np.array(["text"]), "cannot be used"),
        (np.zeros(2, dtype="datetime64[s]"), "cannot be used"),
        (np.zeros(()), "no rows"),
        (np.zeros((0, 3)), "no rows"),
        (np.zeros((3, 0)), "no rows to train on, or nothing in them"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_cannot_be_used(tmp_path: Path, array: Any, text: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    np.savez(path, x=array) if suffix == ".npz" else np.save(path, array)
    with pytest.raises(DataSetError, match=text) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_a_mapped_array_that_is_stored_by_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2), order="F"))
    with pytest.raises(DataSetError, match="stored by columns"):
        opened(tmp_path / "a.npy")


def test_a_missing_tensor_names_those_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.ones(3), labels=np.ones(3))
    save_file({"inputs": torch.ones(3)}, tmp_path / "a.safetensors")
    for suffix, there in ((".npz", "inputs, labels"), (".safetensors", "inputs$")):
        with pytest.raises(DataSetError, match=f"holds {there}") as caught:
            opened(tmp_path / f"a{suffix}")
        assert "tensor 'x'" in str(caught.value)


def test_an_element_type_that_is_unknown_here(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with pytest.raises(DataSetError, match="element type 'F8_E4M3' cannot be used"):
        opened(tmp_path / "a.safetensors")


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "d.npz").mkdir()
    (tmp_path / "a.csv").write_text("1,2")
    (tmp_path / "e.npy").write_bytes(b"")
    for name, text in (
        ("none.npy", "no such file"),
        ("d.npz", "cannot be read"),
        ("a.csv", r"an \.npz"),
        ("e.npy", "header"),
    ):
        with pytest.raises(DataSetError, match=text) as caught:
            opened(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(DataSetError, match="at least one column"):
        open_file(tmp_path / "a.npz", columns=())


# --- What lies


def npy(header: str, *, length: int | None = None, version: int = 1, values: bytes = bytes(16)) -> bytes:
    data = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + (length or len(data)).to_bytes(2 * version, "little") + data + values


HEADER = "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}"


@pytest.mark.parametrize(
    "data",
    [
        npy(HEADER.format("5,")),
        npy(HEADER.format("1099511627776, 1099511627776")),
        npy(HEADER.format("4294967296, 4294967296, 2")),
        npy(HEADER.format("-1, 4")),
        npy(HEADER.format("9" * 5000)),
        npy(HEADER.format("1, " * 40)),
        npy(HEADER.format("[" * 3000)),
        npy(HEADER.format("4,"), length=60_000),
        npy(HEADER.format("4,"), length=0xFFFF_FFFF, version=2),
        npy("{'descr': '<f4'}"),
        npy("__import__('os').system('true')"),
        npy(HEADER.format("4,"))[:40],
        b"\x93NUMPY\x09\x00",
    ],
)
def test_npy_headers_that_lie(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataSetError, match=rf"{name}.*(damaged|be used)"):
            opened(tmp_path / name)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"x": 3},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1 << 80], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1] * 20, "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4]}},
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: object) -> None:
    data = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(4))
    with pytest.raises(DataSetError, match=r"a\.safetensors"):
        opened(tmp_path / "a.safetensors")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"x":' * 50_000, b"\xff\xfe{}", b"NaN", b'{"x": 1e999}'])
def test_safetensors_headers_that_are_no_header(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    with pytest.raises(DataSetError, match="damaged"):
        opened(tmp_path / "a.safetensors")


@pytest.mark.parametrize("cut", [1, 5, 40, 90])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_files_that_were_cut_short(tmp_path: Path, suffix: str, cut: int) -> None:
    path = tmp_path / f"a{suffix}"
    x = np.arange(12.0)
    match suffix:
        case ".npy":
            np.save(path, x)
        case ".npz":
            np.savez(path, x=x)
        case _:
            save_file({"x": torch.from_numpy(x)}, path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataSetError, match=r"a\.\w+.*damaged"):
        opened(path)


def zeros(count: int) -> bytes:
    """An array of zeros as ``.npy``: a thousandth of it, when it is deflated."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(count, np.uint8))
    return buffer.getvalue()


@pytest.mark.slow
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", zeros(50_000_000))
    assert (tmp_path / "a.npz").stat().st_size < 100_000
    with pytest.raises(DataSetError, match=r"takes 50000000 bytes of memory, and 1048576 are allowed"):
        opened(tmp_path / "a.npz", memory_bytes=1 << 20)


def test_the_limit_is_for_all_columns_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(600, np.uint8), y=np.zeros(600, np.uint8))
    open_file(tmp_path / "a.npz", columns=("x", "y"), memory_bytes=1200)
    with pytest.raises(DataSetError, match="tensor 'y'"):
        open_file(tmp_path / "a.npz", columns=("x", "y"), memory_bytes=1199)


@pytest.mark.parametrize(("old", "new"), [(600, 500), (600, 700)])
def test_an_archive_whose_member_is_not_as_long_as_its_array(tmp_path: Path, old: int, new: int) -> None:
    data = zeros(old).replace(str(old).encode(), str(new).encode())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(DataSetError, match="its size is not that of its values"):
        opened(tmp_path / "a.npz")


def test_an_archive_whose_values_were_changed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full(64, 7, np.uint8))
    data = (tmp_path / "a.npz").read_bytes().replace(b"\x07" * 64, b"\x08" * 64)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataSetError, match="CRC"):
        opened(tmp_path / "a.npz")


def test_a_compression_with_a_dictionary_of_its_own_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", zeros(10))
    with pytest.raises(DataSetError, match="NumPy does not write"):
        opened(tmp_path / "a.npz")


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([".npz", ".npy", ".safetensors"]), st.sampled_from(["", "start", "zip"])
)
def test_garbage_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, how: str
) -> None:
    file = tmp_path_factory.mktemp("garbage") / f"a{suffix}"
    if how == "zip" and suffix == ".npz":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.npy", data)
    elif how:
        file.write_bytes((b"\x93NUMPY\x01\x00" if suffix == ".npy" else len(data).to_bytes(8, "little")) + data)
    else:
        file.write_bytes(data)
    with pytest.raises(DataSetError, match=r"a\.(npz|npy|safetensors)"):
        opened(file)
