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
from cloister.study.reached import reached
from cloister.study.state_dir import JOB, NEWEST, Folder, folder_of, write_chain
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


# From one charter to the next

OLD = chains.charter()
NEXT = chains.charter(serial=2, supersedes=OLD.digest)


def test_a_folder_follows_its_charter(tmp_path: Path) -> None:
    folder, ledger = kept(tmp_path)
    (tmp_path / JOB).write_bytes(b"a job")
    (tmp_path / NEWEST).write_bytes(b"a model")
    assert not folder.follow(OLD)
    assert folder.before(NEXT) is None
    assert folder.follow(NEXT)
    aside = tmp_path / OLD.digest.hex()
    assert sorted(each.name for each in aside.iterdir()) == sorted((CHAIN, JOB, NEWEST))
    assert folder.ledger(NEXT).records == ()
    before = folder.before(NEXT)
    assert before is not None
    assert before.ledger(OLD).records == ledger.records
    assert (folder.released_before(), folder.starts_before()) == (2, {chains.START})
    assert not folder.follow(NEXT)
    begun = chains.chain(1, agreed=NEXT)
    folder.keep_records(begun.records, before=())  # the chain of the new charter, from its first record on
    assert Folder(tmp_path).ledger(NEXT).records == begun.records


def test_a_script_that_ended_on_the_way_follows_again(tmp_path: Path) -> None:
    folder, ledger = kept(tmp_path)
    (tmp_path / NEWEST).write_bytes(b"a model")
    aside = tmp_path / OLD.digest.hex()
    aside.mkdir()
    (tmp_path / NEWEST).rename(aside / NEWEST)
    assert folder.follow(NEXT)
    assert (aside / NEWEST).read_bytes() == b"a model"
    assert Folder(aside).ledger(OLD).records == ledger.records


def test_another_study_lays_nothing_aside(tmp_path: Path) -> None:
    folder, ledger = kept(tmp_path)
    third = chains.charter(serial=3, supersedes=NEXT.digest)
    for other in (third, chains.charter(rounds="200")):
        with pytest.raises(LedgerError, match="holds the chain of another charter"):
            folder.follow(other)
    assert folder.ledger(OLD).records == ledger.records


def test_the_folder_of_the_charter_before_is_found(tmp_path: Path) -> None:
    new = tmp_path / "charter-2.toml"
    assert folder_of(NEXT, file=new) == tmp_path / "charter-2.rounds"
    (tmp_path / "other.rounds").mkdir()
    kept(tmp_path / "charter.rounds")
    assert folder_of(OLD, file=tmp_path / "charter.toml") == tmp_path / "charter.rounds"
    assert folder_of(NEXT, file=new) == tmp_path / "charter.rounds"
    Folder(tmp_path / "charter.rounds").follow(NEXT)
    assert folder_of(NEXT, file=new) == tmp_path / "charter.rounds"  # before its first record, too
    assert folder_of(chains.charter(serial=2, supersedes=bytes(32)), file=new) == tmp_path / "charter-2.rounds"
    (tmp_path / "charter-2.rounds").mkdir()
    assert folder_of(NEXT, file=new) == tmp_path / "charter-2.rounds"


def test_how_far_a_study_is(tmp_path: Path) -> None:
    file = tmp_path / "charter.toml"
    assert reached(OLD, state=None, charter_file=file).model is None
    folder, ledger = kept(tmp_path / "charter.rounds")
    found = reached(OLD, state=None, charter_file=file)
    assert (found.model, found.done, found.spent) == (ledger.model, {"train": 2}, 2)
    folder.follow(NEXT)
    found = reached(NEXT, state=None, charter_file=tmp_path / "charter-2.toml")
    assert (found.model, found.spent) == (None, 2)
    folder.keep_records(chains.chain(3, agreed=NEXT).records, before=())
    assert reached(NEXT, state=tmp_path / "charter.rounds", charter_file=file).spent == 5
