"""`cloister ledger`: a chain audited from files alone, and printed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from cloister.cli import main
from cloister.cli.ledger import epsilons
from cloister.ledger.audit import audit
from cloister.ledger.chain import Ledger
from cloister.ledger.jsonl import LINE_BYTES, write_line
from cloister.net.files import read_charter
from cloister.node.study.budgets import privacy
from cloister.node.study.journal import Records
from cloister.study.privacy import rounded_up
from tests.support import chains, charters, members

ALLOW = ("--accept-simulated", "--charter", "charter.toml")


@pytest.fixture(autouse=True)
def ledger(tmp_path, monkeypatch):
    """A chain of two instances and three rounds, and its charter, in the folder."""
    monkeypatch.chdir(tmp_path)
    given = {
        "jobs": [charters.agreed_job(chains.PLAN, rounds=100)],
        "first_model": f'"{chains.START.hex()}"',
        "limits": chains.LOSS,
    }
    Path("charter.toml").write_text(charters.text(**given))
    ledger = chains.chain(2)
    chains.extend(ledger, 1, names=["bob", "chuck"])
    write(ledger)
    return ledger


def write(ledger: Ledger, path: str = "chain.jsonl") -> list[str]:
    lines = [write_line(record) for record in ledger.records]
    Path(path).write_text("".join(lines))
    return lines


@pytest.fixture
def run(capsys):
    """Runs a command and returns its exit code, output and complaints."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["ledger", *words])
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


@pytest.mark.slow
def test_an_audit_says_what_the_chain_shows(run, ledger):
    code, out, err = run("audit", "chain.jsonl", *ALLOW)
    assert (code, err) == (0, "")
    assert f"charter     stroke-study, {ledger.charter.digest.hex()}" in out
    assert f"records     5, all of one chain; the newest is {ledger.head.hex()}" in out
    assert "rounds      3 released, of 100 in all" in out
    assert "instance    record 4: simulated, rehearsal, judged as of 2026-06-01T12:00:00.000+00:00" in out
    assert "proves nothing" in out
    assert f"job         train, {chains.JOB.hex()}: 3 rounds, each computed alike" in out
    assert f"  first model         {chains.START.hex()}" in out
    assert "  steps               4 of every owner in every round" in out
    assert "  optimizer           SGD(lr=0.1, weight_decay=0.0, momentum=0.0, dampening=0.0, nesterov=False)" in out
    assert "owner       alice: contributed to 2, committed 2" in out
    assert "owner       chuck: contributed to 1, committed 1" in out
    assert f"model       {ledger.model.hex()}" in out
    assert "void" not in out


def test_the_audit_and_a_nodes_own_log_say_the_same_of_what_was_told(run):
    """From the chain alone, and from the records of one owner's disk: to the last digit."""
    Path("charter.toml").write_text(charters.text(**members.hidden()))
    agreed, notes = read_charter(Path("charter.toml")), Records(None)
    here = members.Aggregator.facing(members.owner(agreed=agreed, notes=notes))
    here.round(1)
    here.round(2)
    here.round(3, ("alice", "chuck"))
    write(here.ledger)
    (known,) = privacy(notes, budgets={"#mri": None}, charters=[agreed])
    found = epsilons(audit(here.ledger.records, charter=agreed, collateral=lambda *_: None, accept_simulated=True))
    assert found["bob"] == known.spent
    assert found["alice"] == found["chuck"] > found["bob"]
    out = run("audit", "chain.jsonl", *ALLOW)[1]
    assert f"privacy     of one record of bob: epsilon {rounded_up(found['bob'])} at delta 1e-05\n" in out
    assert f"privacy     of one record of alice: epsilon {rounded_up(found['alice'])} at delta 1e-05\n" in out


def test_an_audit_needs_no_accountant(run, monkeypatch):
    noise = '{ unit = "record", multiplier = 2.2718, delta = 1e-5 }'
    Path("charter.toml").write_text(charters.text(**members.hidden(noise=noise)))
    here = members.Aggregator.facing(members.owner(agreed=read_charter(Path("charter.toml"))))
    here.round(1)
    write(here.ledger)
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    code, out, _ = run("audit", "chain.jsonl", *ALLOW)
    assert code == 0
    assert "privacy     the epsilon of noise is computed by dp-accounting, which is not installed: pip install" in out
    assert "owner       bob: contributed to 1, committed 1" in out


def test_rounds_that_were_void_are_told(run):
    ledger = chains.chain(0)
    first = chains.Instance()
    for number in (2, 6):
        agreed = chains.cohort(ledger, ["bob", "alice"], signer=first.public, round=number)
        ledger.append(chains.round_record(ledger, instance=first, agreed=agreed))
    write(ledger)
    assert "void        1, 3 to 5\n" in run("audit", "chain.jsonl", *ALLOW)[1]


@pytest.mark.slow
def test_a_simulated_tee_is_not_let_pass_unasked(run):
    code, out, err = run("audit", "chain.jsonl", "--charter", "charter.toml")
    assert (code, out) == (4, "")
    assert "a simulated TEE proves nothing" in err


def test_a_member_finds_its_contribution(run, ledger):
    commitment = ledger.receipts[1].cohort.shares[0].commitment.hex()
    code, out, _ = run("audit", "chain.jsonl", *ALLOW, "--contribution", commitment)
    assert code == 0
    assert "used        once, in round 2 (record 3)" in out
    code, out, err = run("audit", "chain.jsonl", *ALLOW, "--contribution", "00" * 32)
    assert (code, out) == (1, "")
    assert "no round of this ledger used the contribution" in err


@pytest.mark.slow
def test_wrong_usage_gives_1(run):
    for wrong in ("xy", "00", "0" * 63 + "g", "\u0660" * 64):
        code, _, err = run("audit", "chain.jsonl", *ALLOW, "--contribution", wrong)
        assert code == 1
        assert "hexadecimal" in err
    assert run("audit", "chain.jsonl")[0] == 1


def test_a_chain_that_was_touched_is_refused(run, ledger):
    lines = write(ledger)
    dropped = "".join(lines[:1] + lines[2:])
    edited = lines[1].replace('"round": 1', '"round": 9')
    for text, why in (
        (dropped, "record 2 cannot stand"),
        ("".join([lines[0], edited]), "line 2: its 'round' is not what its record says"),
        ("".join(lines)[:-100], "line 5"),
    ):
        Path("chain.jsonl").write_text(text)
        code, out, err = run("audit", "chain.jsonl", *ALLOW)
        assert (code, out) == (1, "")
        assert re.sub(r"\s+", " ", why) in re.sub(r"\s+", " ", err)


def test_a_chain_of_another_charter(run):
    Path("charter.toml").write_text(charters.text())
    code, _, err = run("audit", "chain.jsonl", *ALLOW)
    assert code == 1
    assert "another charter" in err


def test_evidence_can_be_judged_as_of_another_time(run):
    code, out, _ = run("audit", "chain.jsonl", *ALLOW, "--now", "2026-10-01T00:00:00+00:00")
    assert code == 0
    assert "judged as of 2026-10-01T00:00:00+00:00" in out


def test_an_empty_chain_is_one(run):
    Path("chain.jsonl").write_text("")
    code, out, _ = run("audit", "chain.jsonl", *ALLOW)
    assert code == 0
    assert "records     0" in out
    assert f"model       {chains.START.hex()}" in out


def test_files_that_are_none(run):
    for path in ("nowhere.jsonl", "."):
        code, _, err = run("audit", path, *ALLOW)
        assert code == 1
        assert "cannot be read" in err
        assert "name a chain of receipts" in err
    os.mkfifo("pipe")
    assert run("audit", "pipe", *ALLOW)[0] == 1


def test_a_line_without_an_end_is_not_read_to_its_end(run):
    Path("chain.jsonl").write_bytes(b" " * (3 * LINE_BYTES))
    code, _, err = run("audit", "chain.jsonl", *ALLOW)
    assert code == 1
    assert "line 1: it is longer than" in err


def test_show_prints_what_the_records_say(run):
    code, out, _ = run("show", "chain.jsonl")
    assert code == 0
    said = [json.loads(line) for line in out.splitlines()]
    assert [(each["kind"], each["sequence"]) for each in said] == [
        ("instance", 1),
        ("round", 2),
        ("round", 3),
        ("instance", 4),
        ("round", 5),
    ]
    assert all("record" not in each for each in said)
