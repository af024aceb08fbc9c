"""How long a node waits for a key that is said to be lost: by its own clock, and anew whenever the key signs."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from cloister.charter.signatures import encode
from cloister.errors import CharterError
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.node import setup
from cloister.node.config import parse
from cloister.node.setup import note_successor
from cloister.node.study.journal import Records
from cloister.node.waiting import check_waited
from tests.support import chains, charters
from tests.support.chains import Instance
from tests.support.charters import NOW, fingerprint_of, signatures

OLD = chains.charter(lost_key_days="30")
NEW = chains.charter(serial=2, supersedes=OLD.digest, lost_key_days="1", owners=("bob", "alice"))
SILENT = [owner for owner in OLD.owners if owner.name == "chuck"]
DAY = timedelta(days=1)


def waits(state: Path, *, days: float, note: bool = True, new=NEW) -> str:
    """Why the node does not follow after so many days; empty where it does."""
    try:
        check_waited(state, old=OLD, new=new, silent=SILENT, now=NOW + days * DAY, note=note)
    except CharterError as fault:
        return str(fault)
    return ""


def knows(state: Path, ledger: Ledger) -> None:
    rounds = {receipt.cohort.sequence: receipt.cohort.round for receipt in ledger.receipts}
    with closing(Records(state)) as memory:
        known = len(memory.chain(OLD.digest))
        new = [(rounds.get(at, 0), each) for at, each in enumerate(ledger.records, 1)]
        memory.release(OLD.digest, new[known:])


def test_it_waits_as_long_as_the_charter_before_says(tmp_path: Path) -> None:
    assert "waits 30 days from now on, until 2026-07-01 12:00 UTC. Let this node work under serial 1" in waits(
        tmp_path, days=0
    )
    assert "first seen here on 2026-06-01 12:00 UTC, and waits 30 days, until 2026-07-01" in waits(tmp_path, days=29.9)
    assert waits(tmp_path, days=30) == ""


def test_looking_begins_nothing(tmp_path: Path) -> None:
    assert "`cloister node note` does that" in waits(tmp_path / "state", days=0, note=False)
    assert not (tmp_path / "state").exists()
    assert "from now on" in waits(tmp_path, days=31)


def test_each_successor_is_waited_for(tmp_path: Path) -> None:
    waits(tmp_path, days=0)
    other = chains.charter(serial=2, supersedes=OLD.digest, owners=("bob", "alice"), rounds="200")
    assert "from now on" in waits(tmp_path, days=30, new=other)
    assert "from now on" in waits(tmp_path, days=60)


@pytest.mark.parametrize("how", ["member", "witness", "in a cohort that others committed"])
def test_a_key_that_signs_is_not_lost(tmp_path: Path, how: str) -> None:
    ledger = Ledger(OLD)
    runs = Instance("first")
    ledger.append(runs.begin(ledger))
    ledger.append(chains.round_record(ledger, ("bob", "chuck"), instance=runs))
    knows(tmp_path, ledger)
    assert "from now on" in waits(tmp_path, days=0)  # what it signed before counts for nothing
    assert "first seen here" in waits(tmp_path, days=1)
    names, witnesses = (("bob", "alice"), ("chuck",)) if how == "witness" else (("bob", "chuck"), ())
    record = chains.round_record(ledger, names, instance=runs, witnesses=witnesses)
    if how == "in a cohort that others committed":
        encoded = records.encode(chains.cohort(ledger, names, signer=runs.public))
        commits = chains.commits(encoded, chains.outcome(ledger), ("bob", "alice"))
        record = chains.round_record(ledger, names, instance=runs, commits=commits)
    ledger.append(record)
    knows(tmp_path, ledger)
    assert "the key of chuck, which is said to be lost, has signed since: it waits 30 days anew" in waits(
        tmp_path, days=30
    )
    assert "first seen here on 2026-07-01" in waits(tmp_path, days=59)
    assert waits(tmp_path, days=60) == ""


def test_others_may_go_on(tmp_path: Path) -> None:
    ledger = chains.chain(1, agreed=OLD)
    knows(tmp_path, ledger)
    waits(tmp_path, days=0)
    chains.extend(ledger, 2)
    knows(tmp_path, ledger)
    assert waits(tmp_path, days=30) == ""


def test_a_memory_that_cannot_be_written_begins_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert "so that the time would not begin" in waits(tmp_path / "state", days=0)


def test_a_node_notes_a_successor_while_it_works_under_the_charter_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "jobs": [charters.agreed_job(chains.PLAN)],
        "first_model": f'"{chains.START.hex()}"',
        "lost_key_days": "30",
    }
    first = charters.text(**given)  # type: ignore[arg-type]
    old = charters.parse_charter(first)
    second = charters.text(serial=2, supersedes=old.digest, owners=("bob", "alice"), **given)  # type: ignore[arg-type]
    for name, written in (("charter", first), ("next", second)):
        (tmp_path / f"{name}.toml").write_text(written)
        (tmp_path / f"{name}.sigs").mkdir()
        for number, signature in enumerate(signatures(charters.parse_charter(written))):
            (tmp_path / f"{name}.sigs" / f"{number}.sig").write_text(encode(signature))
    text = 'name = "bob"\nidentity = "bob.key"\n[charter]\nfile = "charter.toml"\naccept_simulated = true\n'
    configuration = parse(text, folder=tmp_path, source="node.toml")
    bob = type("Known", (), {"fingerprint": fingerprint_of("bob")})
    monkeypatch.setattr(setup.Identity, "load", lambda path: bob)
    for use in configuration.charters:
        setup.load_charter(use, own=fingerprint_of("bob"), now=NOW)
    note = partial(note_successor, configuration, tmp_path / "next.toml")
    with pytest.raises(CharterError, match="from now on"):
        note(now=NOW)
    with pytest.raises(CharterError, match="first seen here on"):
        note(now=NOW + 29 * DAY)
    assert note(now=NOW + 30 * DAY).serial == 2
    (tmp_path / "other.toml").write_text(first.replace("stroke-study", "other"))
    with pytest.raises(CharterError, match="works under no charter 'other'"):
        note_successor(configuration, tmp_path / "other.toml", now=NOW)
    assert setup.load_charter(configuration.charters[0], own=fingerprint_of("bob"), now=NOW).serial == 1
