"""`cloister study status`, `stop` and `log`: how a study stands, asked from a terminal, and what it released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.main import main
from cloister.ledger.chain import Ledger
from cloister.ledger.jsonl import write_line
from cloister.net.connection import Connection
from cloister.net.proving import Prover
from cloister.study.log import CHAIN
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from tests.support import chains, charters
from tests.support.attested import Study, listening, until_closed
from tests.support.tls import SOON, WELCOME


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        main(["study", *words])
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    said = capsys.readouterr()
    return int(code or 0), said.out, said.err


def answering(study: Study, expected: Any, answer: Any) -> Any:
    instance = study.instance()

    def handle(connection: Connection) -> None:
        Prover(connection, instance).open()
        connection.send(Kind.WELCOME, WELCOME)
        assert connection.receive(wait_s=SOON).message() == expected
        connection.send(Kind.ROUND, answer)
        until_closed(connection)

    return listening(handle, instance.context)


def options(study: Study, at: str, identity: str = "carol") -> list[str]:
    files = [str(study.folder / "charter.toml"), "--identity", str(study.folder / f"{identity}.key")]
    return [*files, "--at", at, "--accept-simulated"]


def status(study: Study) -> w.Status:
    owners = (w.OwnerStatus(study.bob.fingerprint, "out", "it declined: no"),)
    return w.Status("train", 2, 30, 3, "training", "", 28, owners)


@pytest.mark.parametrize(("command", "message"), [("status", w.Ask()), ("stop", w.Stop())])
def test_it_asks_and_prints(study: Study, command: str, message: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(study, message, status(study)) as at:
        code, out, err = run(capsys, command, *options(study, at))
    assert (code, err) == (0, "")
    assert "owner       bob                 out of the round: it declined: no" in out
    with answering(study, message, status(study)) as at:
        code, out, err = run(capsys, command, *options(study, at), "--json")
    assert json.loads(out)["owners"] == [{"name": "bob", "doing": "out", "why": "it declined: no", "left": None}]


def test_what_cannot_be_done_is_one_sentence(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(study, w.Stop(), w.Refused(0, "job", "there is no job that this member could stop")) as at:
        code, out, err = run(capsys, "stop", *options(study, at))
    assert (code, out) == (1, "")
    assert "there is no job that this member could stop" in err
    code, _, err = run(capsys, "status", *options(study, "127.0.0.1:1", identity="dave"))
    assert code == 1
    assert "does not name" in err
    code, _, err = run(capsys, "status", *options(study, "127.0.0.1:1"))
    assert code == 3
    code, _, err = run(capsys, "status", str(study.folder / "other.toml"), "--identity", "x")
    assert code == 1


def test_a_simulated_tee_has_to_be_accepted(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    instance = study.instance()

    def handle(connection: Connection) -> None:
        assert Prover(connection, instance).open() is None

    with listening(handle, instance.context) as at:
        code, out, err = run(capsys, "status", *options(study, at)[:-1])
    assert (code, out) == (4, "")
    assert "simulated" in err


# The log


def write(path: Path, ledger: Ledger) -> list[str]:
    lines = [write_line(record) for record in ledger.records]
    path.write_text("".join(lines), encoding="ascii")
    return lines


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A chain of two instances and four rounds, and its charter, in the folder."""
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {
        "jobs": [charters.agreed_job(chains.PLAN, rounds=100)],
        "first_model": f'"{chains.START.hex()}"',
        "limits": chains.LOSS,
    }
    Path("charter.toml").write_text(charters.text(**given), encoding="utf-8")
    found = chains.chain(2)
    chains.extend(found, 1, names=["bob", "chuck"])
    Path("charter.rounds").mkdir()
    write(Path("charter.rounds", CHAIN), found)
    return found


def test_the_log_has_a_line_for_each_round(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "log", "charter.toml")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("round 1  20")
    assert "  train  alice, bob  loss " in lines[0]
    assert "  committed by alice, bob" in lines[0]
    assert "  train  bob, chuck  loss " in lines[2]
    assert lines[3] == "3 of the charter's 100 rounds are released"
    for named in ("charter.rounds", f"charter.rounds/{CHAIN}"):
        assert run(capsys, "log", "charter.toml", named) == (0, out, "")


def test_the_log_names_void_numbers(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    first = chains.Instance("second")
    for number in (5, 8):
        agreed = chains.cohort(ledger, ("bob", "alice"), signer=first.public, round=number)
        ledger.append(chains.round_record(ledger, instance=first, agreed=agreed, **chains.release(ledger)))
    write(Path(CHAIN), ledger)
    code, out, _ = run(capsys, "log", "charter.toml", CHAIN)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()[2:]] == [
        "round 3",
        "round 4",
        "round 5",
        "rounds 6 to 7",
        "round 8",
        "5 of the charter's 100 rounds are released",
    ]
    assert out.splitlines()[3] == "round 4  void"
    assert out.splitlines()[5] == "rounds 6 to 7  void"


def test_the_log_of_a_chain_that_is_being_written_or_is_none(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write(Path(CHAIN), ledger)
    Path(CHAIN).write_text("".join(lines)[:-100], encoding="ascii")
    code, out, _ = run(capsys, "log", "charter.toml", CHAIN)
    assert (code, out.splitlines()[-1]) == (0, "2 of the charter's 100 rounds are released")
    for text, said in (("{}\n", "line 1: "), ("".join(lines[1:]), "name a chain of this charter's")):
        Path(CHAIN).write_text(text, encoding="ascii")
        code, out, err = run(capsys, "log", "charter.toml", CHAIN)
        assert (code, out) == (1, "")
        assert said in err
    code, out, err = run(capsys, "log", "charter.toml", "nothing")
    assert (code, out) == (1, "")
    assert "nothing does not exist: name a chain of receipts" in " ".join(err.split())
