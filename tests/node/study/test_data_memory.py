"""One memory for a data set: under other tags, at another node, under another charter, and when its file changes."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from cloister.errors import CharterError, RecordsError
from cloister.node.config import StudyData
from cloister.node.study.data_memory import MARK, DataMemory
from cloister.node.study.effects import Prove
from cloister.node.study.entries import Consented, Content, Salted
from cloister.node.study.journal import Records
from tests.support import charters
from tests.support.members import NORMS, UPDATE, Aggregator, agreed_job, charter, declined, only, owner

CHARTER, OTHER = bytes(32), bytes([1]) * 32


def study_data(file: Path, *tags: str, unmarked: bool = False) -> StudyData:
    return StudyData(tags or ("#mri",), file, ("x",), unsafe_unmarked=unmarked)


def consented(data: str, number: int = 1, under: bytes = CHARTER) -> Consented:
    return Consented(under, number, b"c" * 32, b"m" * 32, ("a", "b"), data)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mri.npz"
    path.write_bytes(b"the patients")
    return path


def test_a_second_node_without_the_memory_is_refused_and_told_where_it_is(tmp_path: Path, file: Path) -> None:
    with closing(Records(tmp_path / "one")) as records:
        DataMemory([study_data(file)], records=records, folder=tmp_path / "one")
        DataMemory([study_data(file)], records=records, folder=tmp_path / "one")  # the same again
    link = tmp_path / "link.npz"
    link.symlink_to(file)
    with closing(Records(tmp_path / "two")) as records:
        for path in (file, link):
            with pytest.raises(RecordsError, match="is remembered elsewhere") as caught:
                DataMemory([study_data(path)], records=records, folder=tmp_path / "two")
            assert str(tmp_path / "one") in str(caught.value)
            assert "[[charters]]" in str(caught.value)
    with closing(Records(tmp_path / "one")) as records:
        DataMemory([study_data(link)], records=records, folder=tmp_path / "one")


@pytest.mark.parametrize("said", ["", "{}", "[]", '{"memory": 7}', "\0" * 9000])
def test_a_mark_that_says_nothing_is_no_mark_of_ours(tmp_path: Path, file: Path, said: str) -> None:
    file.with_name(file.name + MARK).write_text(said)
    with closing(Records(tmp_path / "one")) as records, pytest.raises(RecordsError, match="damaged"):
        DataMemory([study_data(file)], records=records, folder=tmp_path)


def test_a_file_that_cannot_be_marked_needs_a_word(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(30, "Read-only file system")

    with closing(Records(tmp_path / "one")) as records:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", full)
            with pytest.raises(RecordsError, match="unsafe_unmarked"):
                DataMemory([study_data(file)], records=records, folder=tmp_path)
        DataMemory([study_data(file, unmarked=True)], records=records, folder=tmp_path)
    assert not file.with_name(file.name + MARK).exists()


def test_other_tags_are_the_same_data_set(tmp_path: Path, file: Path) -> None:
    """What was spent, and the secret that orders rows, follow the content; and the name, where the content changes."""
    copy = tmp_path / "copy.npz"
    copy.write_bytes(file.read_bytes())
    with closing(Records(tmp_path / "one")) as records:
        DataMemory([study_data(file)], records=records, folder=tmp_path)
        records.consent(consented("#mri"))
        records.draw(Salted(CHARTER, "#mri", b"s" * 32))
        DataMemory([study_data(file), study_data(copy, "#scans")], records=records, folder=tmp_path)
        records.consent(consented("#scans", 2, OTHER))
        assert records.same("#scans") == {"#mri", "#scans"}
        assert (records.spent("#mri"), records.spent("#scans"), records.spent("#ct")) == (2, 2, 0)
        assert records.salt("#scans") == b"s" * 32
        file.write_bytes(b"one patient more")
        DataMemory([study_data(file, "#mri")], records=records, folder=tmp_path)
        assert records.spent("#mri") == 2
    with closing(Records(tmp_path / "one")) as records:  # and after a restart
        assert (records.spent("#mri"), records.salt("#scans")) == (2, b"s" * 32)


def test_a_new_year_s_file_under_more_tags_is_the_same_data_set(tmp_path: Path, file: Path) -> None:
    """One restart with one row more and a tag more; the place is what stayed."""
    with closing(Records(tmp_path / "one")) as records:
        DataMemory([study_data(file)], records=records, folder=tmp_path)
        records.consent(consented("#mri"))
        file.write_bytes(b"the patients, and one more")
        link = tmp_path / "link.npz"
        link.symlink_to(file)
        DataMemory([study_data(link, "#mri", "#2027")], records=records, folder=tmp_path)
        assert records.spent("#2027 #mri") == 1


def test_a_change_with_the_old_time_is_noticed(tmp_path: Path, file: Path) -> None:
    """As archives unpack: of the same length, and written at the time that they say."""
    with closing(Records(tmp_path / "one")) as records:
        memory = DataMemory([study_data(file)], records=records, folder=tmp_path)
        first, before = memory.content("#mri"), file.stat()
        file.write_bytes(b"The patients")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert memory.content("#mri") != first


def test_a_file_is_read_again_only_where_it_has_changed(tmp_path: Path, file: Path) -> None:
    with closing(Records(tmp_path / "one")) as records:
        memory = DataMemory([study_data(file)], records=records, folder=tmp_path)
        first, count = memory.content("#mri"), records._count
        assert memory.content("#mri") == first
        assert records._count == count
        file.write_bytes(b"other patients")
        assert memory.content("#mri") != first
        file.unlink()
        with pytest.raises(RecordsError, match="cannot be read"):
            memory.content("#mri")


def test_records_close_with_their_last_user(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.hold()
    records.close()
    records.consent(consented("#mri"))
    records.close()
    with closing(Records(tmp_path)) as again:
        assert again.spent("#mri") == 1


# What changed between two contributions


def test_data_that_has_changed_since_a_void_round_is_not_trained_on(tmp_path: Path) -> None:
    """Its contribution would differ from the one before in what has changed, and in nothing else."""
    content = [bytes(32)]
    here = Aggregator.facing(owner(content=lambda name: content[0]))
    here.contribute(1)
    content[0] = b"\1" * 32
    only(here.member.handle(here.proposal(2)), Prove)
    assert "has changed since it contributed to a round on this model" in declined(here.prove())
    content[0] = bytes(32)
    here.contribute(3)
    here.commit(3)
    here.release(3)
    content[0] = b"\1" * 32
    here.contribute(4)  # on another model


def test_data_that_changes_while_it_is_trained_on_is_not_contributed() -> None:
    content = [bytes(32)]
    here = Aggregator.facing(owner(content=lambda name: content[0]))
    here.propose()
    content[0] = b"\1" * 32
    effects = here.member.trained(1, UPDATE, examples=23, norms=NORMS, metrics={})
    assert "has changed while it was trained on" in declined(effects)


def test_changed_data_is_noticed_under_another_charter_and_other_tags() -> None:
    notes = Records(None)
    for name in ("#mri", "#scans"):
        notes.see(Content(name, bytes(32), 1, 1, 1, 1, "/data/mri.npz"))
    first = Aggregator.facing(owner(notes=notes))
    first.contribute(1)
    other = charter(jobs=[agreed_job(name="other", data="#scans")])
    data = {"#scans": frozenset({"#scans"})}
    second = Aggregator.facing(
        owner(notes=notes, agreed=other, data=data, content=lambda name: b"\1" * 32), name="other"
    )
    second.member.handle(second.proposal(1))
    assert "has changed since" in declined(second.prove())


# Ids, which outlive keys


def test_a_charter_calls_an_organisation_by_the_id_that_it_had() -> None:
    notes = Records(None)
    owner(notes=notes)
    other = charters.fingerprint_of("mallory")
    key = charters.fingerprint_of("bob")
    text = charters.text(jobs=[agreed_job()], row_buckets="[20]", limits=f'first_model = "{"cd" * 32}"\n')
    renamed = charters.parse_charter(text.replace(f'key = "{key}"\n', f'key = "{key}"\nid = "{other}"\n'))
    with pytest.raises(CharterError, match=f'write id = "{key}" beside its key'):
        owner(notes=notes, agreed=renamed)
