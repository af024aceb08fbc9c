"""What a file of weights takes of a process: nothing before it is used, and nothing for its digest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cloister.errors import DataSetError
from cloister.worker.weights import Weights

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "model.safetensors"
    tensors = {"w": torch.arange(12.0).reshape(3, 4), "half": torch.ones(5, dtype=torch.bfloat16)}
    save_file({**tensors, "mask": torch.tensor([True, False]), "none": torch.zeros(0, 3)}, found)
    return found


def held(kind: str) -> int:
    """Bytes of this process's memory of one kind, as ``/proc/self/status`` has it."""
    match = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) << 10


def test_a_digest_is_of_the_file_that_was_opened(file: Path) -> None:
    weights = Weights(file)
    assert weights.digest() == hashlib.sha256(file.read_bytes()).digest()
    other = file.with_name("other.safetensors")
    save_file({"w": torch.zeros(3, 4)}, other)
    other.replace(file)
    with pytest.raises(DataSetError, match="has changed since it was opened"):
        weights.digest()


def test_neither_opening_nor_a_digest_takes_the_memory_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    save_file({"a": torch.zeros(32 * MIB, dtype=torch.uint8), "b": torch.ones(32 * MIB, dtype=torch.uint8)}, file)
    before = held("RssFile")
    weights = Weights(file)
    weights.digest()
    b = weights.tensor("b")
    assert held("RssFile") - before < 8 * MIB
    assert int(b.sum()) == 32 * MIB
    assert 32 * MIB <= held("RssFile") - before < 48 * MIB
