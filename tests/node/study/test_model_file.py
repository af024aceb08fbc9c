"""The file of the newest model: whole, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.ledger.job import name_of_values
from cloister.ledger.sync import ModelState
from cloister.node.study.entries import Kept
from cloister.node.study.model_file import read, write

TENSORS = b"t" * 32
VECTOR, STATE = bytes(range(24)), (bytes(range(48)), bytes(48))
MODEL = ModelState(name_of_values(TENSORS, VECTOR), VECTOR, STATE, 7)
KEPT = Kept(bytes(32), MODEL.digest, TENSORS, MODEL.state_digest, (24, 48, 48), 7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "kept.model", (VECTOR, *STATE))
    return tmp_path / "kept.model"


def test_what_was_written_is_read(file):
    assert read(file, kept=KEPT) == MODEL
    assert [each.name for each in file.parent.iterdir()] == ["kept.model"]


def test_every_byte_that_changes_is_found(file):
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read(file, kept=KEPT) is None, at


@pytest.mark.parametrize("damage", ["gone", "shorter", "longer"])
def test_a_file_of_another_length_or_none(file, damage):
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage == "shorter" else file.read_bytes() + b"!")
    assert read(file, kept=KEPT) is None


def test_a_file_that_cannot_be_written_leaves_the_one_before(file):
    with pytest.raises(TypeError):
        write(file, (b"new", "no bytes"))  # type: ignore[arg-type]
    assert read(file, kept=KEPT) == MODEL
    assert len(list(file.parent.iterdir())) == 1
