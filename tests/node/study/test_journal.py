"""What a node wrote down is there after every crash; where it cannot be, the node knows."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from cloister.errors import RecordsError
from cloister.ledger.job import name_of_values
from cloister.ledger.sync import ModelState
from cloister.node.study.entries import Answered, Committed, Consented, TookPart, Voided
from cloister.node.study.journal import FILE, Records

TENSORS = b"t" * 32
CHARTER, OTHER = bytes(32), bytes([1]) * 32


def part(number: int = 1, charter: bytes = CHARTER) -> TookPart:
    digests = {name: name[:1].encode() * 32 for name in ("job", "digest", "model", "content", "commitment", "salt")}
    return TookPart(
        charter=charter, round=number, data="#mri", batch_size=32, weights="uniform", clip_norm=None, **digests
    )


def named(number: int) -> bytes:
    """A cohort's digest."""
    return b"cohort %d" % number + bytes(32 - len(b"cohort %d" % number))


def consented(number: int = 1, charter: bytes = CHARTER, data: str = "#mri") -> Consented:
    return Consented(charter, number, named(number), b"m" * 32, ("a", "b"), data)


def committed(number: int = 1, charter: bytes = CHARTER) -> Committed:
    return Committed(charter, number, named(number), b"m" * 32, ("a", "b"), b"o" * 32)


def model(vector: bytes, *averages: bytes, rounds: int = 0) -> ModelState:
    return ModelState(name_of_values(TENSORS, vector), vector, averages, rounds)


MODEL = model(b"vector", b"momentum", rounds=7)


def filled(folder: Path | None) -> Records:
    records = Records(folder)
    records.take_part(part(1))
    records.consent(consented(1))
    records.commit(committed(1))
    records.commit(committed(3))
    records.consent(consented(2, OTHER))
    records.commit(committed(2, OTHER))
    records.answer(Answered(CHARTER, 5))
    records.consent(consented(4, OTHER))
    records.void([Voided(OTHER, named(4)), Voided(CHARTER, named(3))])
    records.release(CHARTER, [(0, b"instance"), (1, b"round")], model=MODEL, tensors=TENSORS)
    return records


@pytest.mark.parametrize("reopened", [True, False])
def test_what_was_written_is_known(tmp_path, reopened):
    records = filled(tmp_path if reopened else None)
    if reopened:
        records.close()
        records = Records(tmp_path)
    assert set(records.charters) == {CHARTER, OTHER}
    assert records.took_part(CHARTER) == {1: part(1)}
    assert records.consents(CHARTER) == (consented(1),)
    assert records.consents(OTHER) == (consented(2, OTHER), consented(4, OTHER))
    assert records.commits(CHARTER) == {1: committed(1), 3: committed(3)}
    assert (records.highest(CHARTER), records.highest(OTHER), records.highest(b"x" * 32)) == (5, 2, 0)
    # Under both charters, not as a witness, and not what is void.
    assert (records.spent("#mri"), records.spent("#ct")) == (2, 0)
    assert [records.is_void(OTHER, named(4)), records.is_void(CHARTER, named(4))] == [True, False]
    assert records.committed_on(b"m" * 32, charter=b"c" * 32) == (committed(1), committed(2, OTHER))
    assert records.consented_elsewhere(b"m" * 32, charter=b"c" * 32) == (consented(1), consented(2, OTHER))
    assert records.consented_elsewhere(b"m" * 32, charter=OTHER) == (consented(1),)
    assert records.committed_on(bytes(32), charter=CHARTER) == records.consented_elsewhere(bytes(32), charter=OTHER)
    assert records.chain(CHARTER) == (b"instance", b"round")
    assert records.released(CHARTER) == (1,)
    assert records.model(CHARTER) == MODEL
    records.close()


def test_what_entries_repeat_is_held_once(tmp_path):
    """A node holds the entries of all rounds; decoded, each would bring its own copy of who was in it."""
    with closing(Records(tmp_path)) as notes:
        for number in (1, 2):
            notes.consent(consented(number))
            notes.commit(committed(number))
    with closing(Records(tmp_path)) as notes:
        one, other = notes.consents(CHARTER)
        assert one.members == other.members
        assert one.members is other.members
        assert notes.commits(CHARTER)[1].charter is one.charter


def test_the_file_of_an_older_model_goes(tmp_path):
    records = filled(tmp_path)
    records.release(CHARTER, [], model=model(b"newer"), tensors=TENSORS)
    assert records.model(CHARTER) == model(b"newer")
    assert len(list(tmp_path.glob("*.model"))) == 1
    records.close()


def test_a_model_that_was_put_off_is_written_with_what_comes_next(tmp_path):
    """Its file first, when the node has time; no transaction is made for the entry that names it."""
    records = filled(tmp_path)
    newer = model(b"newer")
    records.release(CHARTER, [(2, b"another")], model=newer, tensors=TENSORS, put_off=True)
    assert records.behind
    assert records.kept(CHARTER) == (newer.digest, newer.state_digest)
    with closing(Records(tmp_path, read_only=True)) as others:
        assert (others.chain(CHARTER)[-1], others.model(CHARTER)) == (b"another", MODEL)  # what a crash leaves
    records.catch_up(whole=False)
    records.commit(committed(4))
    assert not records.behind
    records.close()
    with closing(Records(tmp_path)) as again:
        assert again.model(CHARTER) == newer
    assert len(list(tmp_path.glob("*.model"))) == 1


def test_a_model_that_another_follows_before_it_was_named_leaves_no_file(tmp_path):
    records = filled(tmp_path)
    for content in (b"one", b"two"):
        records.release(CHARTER, [], model=model(content), tensors=TENSORS, put_off=True)
        records.catch_up(whole=False)
    records.catch_up(whole=True)
    assert records.model(CHARTER) == model(b"two")
    assert len(list(tmp_path.glob("*.model"))) == 1
    records.close()


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    records = filled(tmp_path)
    with pytest.raises(RecordsError, match="could not be read back"):
        records.release(CHARTER, [], model=model(b"newer"), tensors=b"short")
    records.commit(committed(4))
    records.close()
    assert sorted(Records(tmp_path).commits(CHARTER)) == [1, 3, 4]


@pytest.mark.parametrize("damage", [b"", b"vectormomentun", b"Vectormomentum", b"vectormomentum and more"])
def test_a_damaged_model_is_not_held(tmp_path, damage):
    records = filled(tmp_path)
    next(tmp_path.glob("*.model")).write_bytes(damage)
    assert records.kept(CHARTER) is not None
    assert records.model(CHARTER) is None
    assert records.kept(CHARTER) is None  # so that it is written again when it comes
    records.close()


def test_a_second_node_is_refused_and_an_onlooker_is_not(tmp_path):
    records = filled(tmp_path)
    with pytest.raises(RecordsError, match="another node"):
        Records(tmp_path)
    looking = Records(tmp_path, read_only=True)
    assert looking.highest(CHARTER) == 5
    for write in (
        lambda: looking.commit(committed(6)),
        lambda: looking.consent(consented(6)),
        lambda: looking.answer(Answered(CHARTER, 6)),
        lambda: looking.void([Voided(CHARTER, named(1))]),
    ):
        with pytest.raises(RecordsError):
            write()
    assert (looking.highest(CHARTER), looking.spent("#mri")) == (5, 2)
    looking.close()
    records.commit(committed(4))
    records.close()
    Records(tmp_path).close()


@pytest.mark.slow
def test_every_byte_that_changes_is_found_or_of_no_account(tmp_path):
    filled(tmp_path).close()
    file = tmp_path / FILE
    whole = file.read_bytes()
    entry = whole.index(b"cohort 1")
    found = 0
    for at in [*range(120), *range(entry - 60, entry + 60), *range(len(whole) - 200, len(whole))]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        try:
            records = Records(tmp_path)
        except RecordsError:
            found += 1
            continue
        assert records.commits(CHARTER) == {1: committed(1), 3: committed(3)}
        records.close()
    assert found > 200  # the rest is in parts of SQLite's header that say nothing of the entries


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_a_file_that_was_cut_short(tmp_path, cut):
    filled(tmp_path).close()
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[: int(len(file.read_bytes()) * cut)])
    with pytest.raises(RecordsError, match="damaged"):
        Records(tmp_path)


def test_a_file_that_is_something_else(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be taken for one" * 20)
    with pytest.raises(RecordsError, match="damaged"):
        Records(tmp_path)
    (tmp_path / FILE).unlink()
    sqlite3.connect(tmp_path / FILE).execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(RecordsError, match="version 0"):
        Records(tmp_path)


@pytest.mark.parametrize("version", [1, 5, 7])
def test_a_file_of_another_version(tmp_path, version):
    filled(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    with pytest.raises(
        RecordsError, match=f"version {version}, and not 6: go on with the version of cloister that wrote them"
    ):
        Records(tmp_path)


def test_an_entry_that_was_taken_out(tmp_path):
    filled(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("DELETE FROM entries WHERE number = 2")
    database.close()
    with pytest.raises(RecordsError, match="missing or changed"):
        Records(tmp_path)


PRELUDE = """
import os, sys
from pathlib import Path
from cloister.errors import RecordsError
from cloister.ledger.sync import ModelState
from cloister.node.study.entries import Committed
from cloister.node.study.journal import Records
folder = Path(sys.argv[1])
def committed(number, size=10):
    return Committed(bytes(32), number, b"c" * 32, b"m" * 32, ("a" * size, "b"), b"o" * 32)
"""


def in_a_process(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python program whose argument is ``folder``, and what it printed."""
    command = [sys.executable, "-c", PRELUDE + program, str(folder)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.mark.slow
def test_a_folder_that_may_not_be_written():
    # Not below pytest's own folder, which only its owner may enter: for root, modes count only once it is nobody.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o500)
        program = """
if os.geteuid() == 0:
    os.setuid(65534)
try: Records(folder)
except RecordsError as fault: print("refused", fault)
"""
        told = in_a_process(program, Path(name)).stdout
        assert told.startswith("refused the node's records cannot be opened: Permission denied"), told


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    """The limit on a file's size stands for it: the same call fails, in the middle of a commit."""
    program = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
records = Records(folder)
records.commit(committed(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try: records.commit(committed(2, 60_000))
except RecordsError as fault: print("refused", fault)
try: records.release(bytes(32), [], model=ModelState(b"m" * 32, bytes(60_000)), tensors=b"t" * 32)
except RecordsError as fault: print("refused", fault)
print(sorted(records.commits(bytes(32))), records.kept(bytes(32)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
records.commit(committed(3))
records.close()
print(sorted(Records(folder).commits(bytes(32))), len(list(folder.glob("*.model"))))
"""
    told = in_a_process(program, tmp_path).stdout
    lines = told.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["refused", "refused"], told
    assert lines[2:] == ["[1] None", "[1, 3] 0"], told


@pytest.mark.slow
def test_a_process_that_is_killed_at_once_after_it_wrote(tmp_path):
    program = """
import signal
records = Records(folder)
for number in range(1, 20):
    records.commit(committed(number))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert in_a_process(program, tmp_path).returncode == -signal.SIGKILL
    records = Records(tmp_path)
    assert records.highest(CHARTER) == 19
    records.close()
