"""The job that a node calls under way: from when to when, over restarts, and what it hands over."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.charter.owner_limits import Floors
from cloister.errors import RecordsError
from cloister.ledger.chain import Ledger
from cloister.ledger.job import job_digest
from cloister.node.study import kept_file
from cloister.node.study.effects import Note, Say
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from tests.support.members import Aggregator, agreed_job, charter, job, leaves, only, owner


def named(here: Aggregator) -> bytes | None:
    """What the owner calls under way when it connects."""
    joined: w.Join = only(here.connect(), w.Join)
    return joined.job


def test_it_names_the_job_that_it_was_shown_and_hands_it_over() -> None:
    member = owner()
    here = Aggregator(member, job(member.charter), Ledger(member.charter))
    assert named(here) is None
    here = Aggregator.facing(member)
    digest = job_digest(here.encoded)
    assert named(here) == digest
    effects = member.handle(w.Resubmit(digest))
    assert Say(w.Resubmitted(), (here.encoded,)) in effects
    assert "does not call under way" in leaves(member.handle(w.Resubmit(bytes(32))))


def test_a_job_that_is_over_is_named_no_more_and_one_that_begins_again_is() -> None:
    here = Aggregator.facing(owner())
    digest = job_digest(here.encoded)
    here.member.handle(w.Finished(bytes(32), 0, "another one"))
    assert named(here) == digest
    assert [
        each.text for each in here.member.handle(w.Finished(digest, 1, "stopped by rosa")) if isinstance(each, Note)
    ]
    assert named(here) is None
    assert "does not call under way" in leaves(here.member.handle(w.Resubmit(digest)))
    here.show()
    assert named(here) == digest


def test_a_job_without_rounds_left_is_not_named() -> None:
    agreed = charter(jobs=[agreed_job(rounds=1)])
    here = Aggregator.facing(owner(agreed=agreed))
    here.round()
    assert named(here) is None


@pytest.mark.parametrize("changed", [{"plan": b"another plan"}, {"name": "no such job"}])
def test_a_job_that_it_refuses_is_never_named(changed: dict[str, bytes]) -> None:
    assert named(Aggregator.facing(owner(), **changed)) is None
    assert named(Aggregator.facing(owner(floors=Floors(max_s=1)))) is None


def test_it_is_known_after_a_restart_and_its_end_too(tmp_path: Path) -> None:
    records = Records(tmp_path)
    here = Aggregator.facing(owner(notes=records))
    digest = job_digest(here.encoded)
    records.close()
    records = Records(tmp_path)
    again = owner(notes=records)
    here.member = again
    assert named(here) == digest
    again.handle(w.Finished(digest, 0, ""))
    assert not list(tmp_path.glob("*.job"))
    records.close()
    records = Records(tmp_path)
    here.member = owner(notes=records)
    assert named(here) is None
    records.close()


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_file_that_is_damaged_names_nothing(tmp_path: Path, content: bytes) -> None:
    records = Records(tmp_path)
    here = Aggregator.facing(owner(notes=records))
    (file,) = tmp_path.glob("*.job")
    assert kept_file.read(file) == here.encoded
    file.write_bytes(content)
    here.member = owner(notes=records)
    assert named(here) is None
    records.close()


def test_a_job_that_cannot_be_kept_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    records = Records(tmp_path)
    monkeypatch.setattr(kept_file, "write", full)
    with pytest.raises(RecordsError, match="cannot be written: No space left"):
        records.keep_job(bytes(32), b"job")
    here = Aggregator.facing(owner(notes=records))
    declined = only(here.member.handle(here.proposal()), w.Declined)
    assert "No space left" in declined.text
    records.close()


def test_a_draft_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="No space"):
        kept_file.write(tmp_path / "a.job", b"job")
    assert not list(tmp_path.iterdir())
    kept_file.write(tmp_path / "a.job", b"")  # nothing is there to be removed
