"""Data sets' headers: right about what NumPy and safetensors write, and clear about what cannot be used."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cloister.errors import ConfigurationError
from cloister.node.config import DataSet
from cloister.node.data_files import inspect
from cloister.wire.tensors import TensorSpec


def spec(path: Path, tensor: str = "x") -> TensorSpec:
    return inspect(DataSet(("#t",), path, tensor, False))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", "bool u1 i1 i2 u2 i4 u4 i8 u8 f2 f4 f8 c8 c16".split())
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, dtype: str, shape: tuple[int, ...], save: object) -> None:
    array = np.zeros(shape, dtype)
    save(tmp_path / "a.npz", other=np.ones(3), x=array)  # type: ignore[operator]
    assert spec(tmp_path / "a.npz") == TensorSpec(array.dtype.name, shape)


def test_npz_in_column_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3), order="F"))
    assert spec(tmp_path / "a.npz") == TensorSpec("float64", (2, 3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64])
def test_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"x": torch.zeros(2, 3, dtype=dtype), "s": torch.zeros(())}, tmp_path / "a.safetensors")
    assert spec(tmp_path / "a.safetensors") == TensorSpec(str(dtype).removeprefix("torch."), (2, 3))
    assert spec(tmp_path / "a.safetensors", "s") == TensorSpec("float32", ())


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([{}, 1], dtype=object), "Python objects"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "several fields"),
        (np.zeros(2, dtype=">f4"), "'>f4' cannot be used"),
        (np.array(["text"]), "cannot be used"),
        (np.zeros(2, dtype="datetime64[s]"), "cannot be used"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, array: np.ndarray, text: str) -> None:  # type: ignore[type-arg]
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(ConfigurationError, match=text) as caught:
        spec(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(caught.value)
    assert "'x'" in str(caught.value)


def test_an_element_type_that_does_not_travel(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="F8_E4M3"):
        spec(tmp_path / "a.safetensors")


def test_a_missing_tensor_names_those_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.ones(3), labels=np.ones(3))
    save_file({"inputs": torch.ones(3)}, tmp_path / "a.safetensors", metadata={"made": "today"})
    with pytest.raises(ConfigurationError, match="inputs, labels"):
        spec(tmp_path / "a.npz")
    with pytest.raises(ConfigurationError, match=r"it holds inputs$"):
        spec(tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match=r"it holds inputs$"):
        spec(tmp_path / "a.safetensors", "__metadata__")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        spec(tmp_path / "a.npz")
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(ConfigurationError, match=r"d\.npz"):
        spec(tmp_path / "d.npz")
    with pytest.raises(ConfigurationError, match=r"an \.npz or a \.safetensors"):
        spec(tmp_path / "d.csv")


def test_a_safetensors_file_that_was_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(30)}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match="all of its values"):
        spec(file)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"x": 3},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1 << 80], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1] * 20, "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: object) -> None:
    data = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(4))
    with pytest.raises(ConfigurationError):
        spec(tmp_path / "a.safetensors")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".npz", ".safetensors"]), inner=st.booleans())
def test_garbage_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, inner: bool
) -> None:
    file = tmp_path_factory.mktemp("garbage") / f"a{suffix}"
    if inner and suffix == ".npz":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x.npy", data)
    else:
        file.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"a\.(npz|safetensors)"):
        spec(file)
