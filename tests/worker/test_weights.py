"""Files of weights, mapped: what is read of one, what is refused, and that it stays the system's memory."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cloister.errors import DataSetError
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.headers import HEADER_BYTES, WEIGHTS_HEADER_BYTES
from cloister.worker.weights import Weights

TENSORS = {
    "bias": torch.arange(3, dtype=torch.float32),
    "half": torch.tensor([[1.5, -0.0], [float("nan"), 3.0]], dtype=torch.bfloat16),
    "ids": torch.tensor(-7),
    "none": torch.zeros(0, 4),
    "wide": torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    return path


def written(path: Path, header: Any, data: bytes = b"", *, after: str = "") -> Path:
    """A file of this header, followed by spaces or whatever else, and its data."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode() + after.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_each_tensor_is_what_was_saved_and_is_called_what_it_was(file: Path) -> None:
    weights = Weights(file)
    assert weights.specs == {
        "bias": TensorSpec("float32", (3,)),
        "half": TensorSpec("bfloat16", (2, 2)),
        "ids": TensorSpec("int64", ()),
        "none": TensorSpec("float32", (0, 4)),
        "wide": TensorSpec("float64", (2, 3)),
    }
    for name, tensor in TENSORS.items():
        found = weights.tensor(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist(), name


def test_its_digest_is_that_of_all_its_bytes(file: Path) -> None:
    assert Weights(file).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_its_identity_is_another_once_it_is_written_to(file: Path) -> None:
    before, data = Weights(file).identity, file.read_bytes()
    assert Weights(file).identity == before
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    other = data[:-1] + bytes([data[-1] ^ 1])
    while file.stat().st_ctime_ns == before[3]:  # a file system's clock has ticks
        file.write_bytes(other)
    os.utime(file, ns=times)
    assert file.stat().st_size == len(data)
    assert Weights(file).identity != before


def test_a_tensor_that_is_not_there_is_named_with_those_that_are(file: Path) -> None:
    with pytest.raises(DataSetError, match=r"model\.safetensors, tensor 'bais': .*no tensor 'bais'.*bias"):
        Weights(file).tensor("bais")


def test_a_file_is_shared_and_takes_no_memory_of_its_process(file: Path) -> None:
    """Or else a checkpoint could not be larger than the memory that a training is allowed."""
    tensor = Weights(file).tensor("wide")
    assert float(tensor.sum()) == pytest.approx(0, abs=1e-12)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    assert [line[1] for line in mapped] == ["r--s"]


def test_whoever_writes_into_it_ends_its_process(file: Path) -> None:
    before = file.read_bytes()
    tensor = Weights(file).tensor("wide")
    child = os.fork()
    if not child:
        faulthandler.disable()
        tensor.fill_(1.0)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) in (signal.SIGSEGV, signal.SIGBUS)
    assert file.read_bytes() == before


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_values_at_odd_places_are_told_when_they_are_wanted(tmp_path: Path) -> None:
    text = json.dumps({"x": ONE, "y": {**ONE, "dtype": "U8", "shape": [8]}})
    spaces = " " * (-(8 + len(text)) % 4 + 1)
    weights = Weights(written(tmp_path / "odd.safetensors", text, bytes(range(8)), after=spaces))
    assert weights.tensor("y").tolist() == [*range(8)]
    with pytest.raises(DataSetError, match="lie at odd places; write the file anew with the safetensors library"):
        weights.tensor("x")


def test_a_bool_is_0_or_1(tmp_path: Path) -> None:
    """Any byte is a bool to a file; to PyTorch only these two are defined."""
    header = {"mask": {"dtype": "BOOL", "shape": [2, 2], "data_offsets": [0, 4]}}
    right = Weights(written(tmp_path / "right.safetensors", header, bytes([0, 1, 1, 0])))
    assert right.tensor("mask").tolist() == [[False, True], [True, False]]
    wrong = Weights(written(tmp_path / "wrong.safetensors", header, bytes([0, 1, 2, 0])))
    with pytest.raises(DataSetError, match="holds bytes other than 0 and 1"):
        wrong.tensor("mask")


def test_an_element_type_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    header = {"x": ONE, "f8": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}
    weights = Weights(written(tmp_path / "x.safetensors", header, bytes(8)))
    assert [*weights.specs] == ["x"]


def test_a_header_may_be_as_long_as_those_of_large_models_are(tmp_path: Path) -> None:
    text = json.dumps({"x": ONE})
    for length in (HEADER_BYTES + 8, WEIGHTS_HEADER_BYTES):
        spaces = " " * (length - len(text))
        assert Weights(written(tmp_path / "x.safetensors", text, bytes(8), after=spaces)).tensor("x").tolist() == [0, 0]
    spaces = " " * (WEIGHTS_HEADER_BYTES + 1 - len(text))
    with pytest.raises(DataSetError, match=r"x\.safetensors"):
        Weights(written(tmp_path / "x.safetensors", text, bytes(8), after=spaces))


@pytest.mark.parametrize(
    "header",
    [
        [ONE],
        "null",
        "{",
        '{"x": 1}',
        {"x": {**ONE, "data_offsets": [0, 16]}},  # beyond the file's end
        {"x": {**ONE, "data_offsets": [-8, 0]}},
        {"x": {**ONE, "data_offsets": [8, 0]}},
        {"x": {**ONE, "shape": [3]}},
        {"x": {**ONE, "shape": [-2]}},
        {"x": {**ONE, "shape": [1 << 62, 1 << 62]}},
        {"x": {**ONE, "shape": ["2"]}},
        {"x": {**ONE, "shape": [1] * 1000}},
        {"x": {"dtype": "F32", "shape": [2]}},
        {"x": {**ONE, "dtype": 32}},
        '{"x": ' + "[" * 100_000,
    ],
    ids=lambda header: str(header)[:40],
)
def test_a_damaged_header_is_refused_with_the_files_name(tmp_path: Path, header: Any) -> None:
    with pytest.raises(DataSetError, match=r"x\.safetensors"):
        Weights(written(tmp_path / "x.safetensors", header, bytes(8)))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "cut").write_bytes((1000).to_bytes(8, "little") + b"{}")
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "short", "cut", "pipe", "gone", "."):
        with pytest.raises(DataSetError):
            Weights(tmp_path / name)
