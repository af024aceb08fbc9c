"""What a session finds of an owner's data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cloister.errors import InteractiveRefusedError, WorkerError
from cloister.node.config import DataSet
from cloister.node.data_files import entry_of
from cloister.node.session.data_sets import DataSets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", x=np.arange(6.0).reshape(2, 3), f=np.asfortranarray(np.arange(6).reshape(2, 3)))
    save_file({"y": torch.arange(4, dtype=torch.bfloat16)}, tmp_path / "b.safetensors")
    return tmp_path


def opened(folder: Path, *, unsafe_interactive: bool = True) -> DataSets:
    sets = [
        DataSet(("#mri", "#x"), folder / "a.npz", "x", unsafe_interactive),
        DataSet(("#mri", "#f"), folder / "a.npz", "f", True),
        DataSet(("#y",), folder / "b.safetensors", "y", True),
    ]
    return DataSets([entry_of(data_set) for data_set in sets])


def test_a_search_is_and_over_tags(folder: Path) -> None:
    found = opened(folder).search(["#mri"])
    assert [tags for tags, _ in found] == [("#mri", "#x"), ("#mri", "#f")]
    assert torch.equal(found[0][1], torch.arange(6.0, dtype=torch.float64).reshape(2, 3))
    assert torch.equal(found[1][1], torch.arange(6).reshape(2, 3))
    assert [tags for tags, _ in opened(folder).search(["#x", "#mri"])] == [("#mri", "#x")]
    assert opened(folder).search(["#x", "#y"]) == []
    assert len(opened(folder).search([])) == 3


def test_the_same_tensor_is_found_again(folder: Path) -> None:
    one = opened(folder)
    (_, first), (_, second) = one.search(["#y"])[0], one.search(["#y"])[0]
    assert first is second
    assert first.dtype == torch.bfloat16


def test_a_closed_data_set_is_refused_and_passed_over(folder: Path) -> None:
    closed = opened(folder, unsafe_interactive=False)
    with pytest.raises(InteractiveRefusedError, match=r"unsafe_interactive = true.*node\.toml"):
        closed.search(["#x"])
    assert [tags for tags, _ in closed.search(["#mri"])] == [("#mri", "#f")]


def test_a_session_cannot_change_the_owners_files_or_what_others_find(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for _, tensor in opened(folder).search([]):
        tensor.fill_(99)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert all(99 not in tensor.tolist() for _, tensor in opened(folder).search(["#y"]))


@pytest.mark.parametrize("tamper", ["gone", "another shape", "no file"])
def test_a_file_that_changed_since_the_start(folder: Path, tamper: str) -> None:
    found = opened(folder)
    if tamper == "gone":
        (folder / "a.npz").unlink()
    elif tamper == "another shape":
        np.savez(folder / "a.npz", x=np.arange(7.0))
    else:
        (folder / "a.npz").write_bytes(b"nonsense")
    with pytest.raises(WorkerError, match="#mri, #x") as caught:
        found.search(["#x"])
    assert str(folder) not in str(caught.value)  # a caller need not know where the owner keeps it
