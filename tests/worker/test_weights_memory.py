"""What a file of weights takes of a process: nothing before it is used, and nothing for its digest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cloister
from cloister.errors import DataSetError
from cloister.worker.data.rows import Arrays
from cloister.worker.flatten import layout_of
from cloister.worker.training import train
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_training_reads_what_its_plan_touches_and_copies_none_of_a_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(1 << 18, 64), nn.Linear(64, 4))
    model[0].requires_grad_(False)
    x, y = torch.arange(8), torch.zeros(8, dtype=torch.int64)
    plan = cloister.plan(lambda model, x, y: nn.functional.cross_entropy(model(x), y)).capture(model, example=(x, y))
    file = tmp_path / "base.safetensors"
    cloister.write_base(model, plan, file)
    head = {name: each.detach().clone() for name, each in model[1].named_parameters("1")}
    data, optimizer, layout = Arrays({"x": x, "y": y}), cloister.SGD(lr=0.1), layout_of(head)

    def trained(table: torch.Tensor) -> torch.Tensor:
        parameters, numbers = {"0.weight": table, **head}, {"batch_size": 4, "steps": 4, "seed": 1}
        return train(plan, data, parameters=parameters, buffers={}, optimizer=optimizer, layout=layout, **numbers).delta

    wanted = trained(model[0].weight.detach())
    mapped = Weights(file).tensor("0.weight")
    before = held("RssFile")
    assert torch.equal(trained(mapped), wanted)
    assert mapped.nbytes == 64 * MIB
    assert held("RssFile") - before < 16 * MIB
