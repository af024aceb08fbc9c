"""What a researcher keeps is found again, also after a crash in the middle of writing, and by one script at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.errors import ConfigurationError, LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Part, model_digest
from cloister.ledger.jsonl import read_lines
from cloister.ledger.sync import ModelState
from cloister.study.log import CHAIN
from cloister.study.state_dir import NEWEST, Folder, write_chain
from cloister.wire.tensors import TensorSpec
from tests.support import chains
from tests.support.owners import make_job


def kept(path: Path) -> tuple[Folder, Ledger]:
    path.mkdir(exist_ok=True)
    folder, ledger = Folder(path), chains.chain(2)
    folder.keep_records(ledger.records, before=())
    return folder, ledger


def test_nothing_is_kept_at_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    assert folder.ledger(chains.charter()).records == ()
    assert folder.model(make_job(chains.charter())) is None


def test_a_chain_grows_by_lines(tmp_path: Path) -> None:
    folder, ledger = kept(tmp_path)
    before = (tmp_path / CHAIN).read_bytes()
    longer = ledger.copy()
    chains.extend(longer, 1)
    folder.keep_records(longer.records, before=ledger.records)
    assert (tmp_path / CHAIN).read_bytes().startswith(before)
    assert Folder(tmp_path).ledger(chains.charter()).records == longer.records


def test_an_instance_that_released_nothing_gives_way(tmp_path: Path) -> None:
    folder, ledger = kept(tmp_path)
    one, other = ledger.copy(), ledger.copy()
    chains.extend(one, 0, instance="second")
    chains.extend(other, 1, instance="third")
    folder.keep_records(one.records, before=ledger.records)
    folder.keep_records(other.records, before=one.records)
    assert Folder(tmp_path).ledger(chains.charter()).records == other.records


def test_a_line_that_was_broken_off(tmp_path: Path) -> None:
    _, ledger = kept(tmp_path)
    file = tmp_path / CHAIN
    file.write_bytes(file.read_bytes()[:-40])
    again = Folder(tmp_path)
    found = again.ledger(chains.charter())
    assert found.records == ledger.records[:-1]
    again.keep_records(ledger.records, before=found.records)
    assert tuple(read_lines(file.read_bytes().splitlines(keepends=True))) == ledger.records


def test_a_chain_that_was_changed(tmp_path: Path) -> None:
    _, ledger = kept(tmp_path)
    write_chain(tmp_path / CHAIN, ledger.records[1:])
    with pytest.raises(LedgerError):
        Folder(tmp_path).ledger(chains.charter())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("averages", [0, 1, 2])
def test_the_newest_model_is_kept_to_the_bit(tmp_path: Path, averages: int, dtype: str) -> None:
    generator = np.random.default_rng(1)
    job = make_job(chains.charter(), parts=(Part("weight", TensorSpec(dtype, (5,)), False),))
    vector = generator.standard_normal(5).astype(dtype).tobytes()
    model = ModelState(
        model_digest(job, vector), vector, tuple(generator.standard_normal(5).tobytes() for _ in range(averages)), 7
    )
    Folder(tmp_path).keep(model, dtype=dtype)
    found = Folder(tmp_path).model(job)
    assert found is not None
    assert (found.digest, bytes(found.vector), found.rounds) == (model.digest, vector, 7)
    assert tuple(map(bytes, found.averages)) == model.averages
    assert Folder(tmp_path).model(make_job(chains.charter())) is None  # another model's


def test_a_damaged_model_is_told(tmp_path: Path) -> None:
    (tmp_path / NEWEST).write_bytes(b"no tensors")
    with pytest.raises(ConfigurationError, match="move it away"):
        Folder(tmp_path).model(make_job(chains.charter()))


def test_a_folder_is_for_one_script(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    with folder.locked(), pytest.raises(ConfigurationError, match="in use"), Folder(tmp_path / "study").locked():
        pass
    with folder.locked():
        pass


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError), Folder(tmp_path / "file" / "study").locked():
        pass
