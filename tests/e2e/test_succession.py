"""A charter's successors while a study runs, with the commands that people type, and processes that are what they are.

Each path of docs/operations.md, "Changing a study while it runs", has a test here that takes it to the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cloister
from cloister.cli.main import main
from cloister.ledger.audit import audit
from cloister.ledger.jsonl import read_lines
from cloister.net.collateral import no_collateral
from cloister.net.files import read_charter
from cloister.net.identity import Identity
from cloister.study.history import Round
from cloister.study.state_dir import Folder
from cloister.study.study import StudyRun
from cloister.testing.studies import LocalColumns, LocalStudy

pytestmark = pytest.mark.e2e

OWNERS = ("alice", "bob", "carol")
ROUNDS, MORE = 4, 2
EXAMPLE = (torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))
NUMBERS: dict[str, Any] = {
    "data": "#mri",
    "optimizer": cloister.SGD(lr=0.1),
    "strategy": cloister.FedAvgM(),
    "batch_size": 16,
    "steps": 3,
}


@cloister.plan
def loss(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Cross-entropy."""
    return {"loss": F.cross_entropy(model(x), y)}


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(6, 3)


def columns(folder: Path, name: str) -> list[LocalColumns]:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    x, y = torch.randn(48, 6, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
    return [LocalColumns(folder / f"{name}.npz", ("x", "y"), ("#mri",))]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalStudy]:
    limits = {
        "first_model": cloister.model_digest(model(), loss.capture(model(), example=EXAMPLE)),
        "floor": 2,
        "largest_share": 0.6,
        "rounds": ROUNDS,
        "lost_key_days": 30,
    }
    job = cloister.job("train", loss.capture(model(), example=EXAMPLE), rounds=ROUNDS, **NUMBERS)
    owners = {name: columns(tmp_path, name) for name in OWNERS}
    with LocalStudy(tmp_path, owners, jobs=[job], limits=limits) as running:
        running.start_aggregator()
        running.start()
        yield running


def fit(local: LocalStudy, *, rounds: int = ROUNDS, **changed: Any) -> StudyRun:
    """The researcher's script: always the same, but for a number of rounds that the owners have agreed on anew."""
    given = {"on_round": lambda done: None, "example": EXAMPLE, **NUMBERS, **changed}
    with local.study(patience_s=60.0) as study:
        return study.fit(model(), loss, rounds=rounds, **given)


def run(*command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code


def succeed(local: LocalStudy, *options: str, old: str = "charter.toml", new: str = "charter-2.toml") -> Path:
    run("charter", "succeed", str(local.folder / old), "--out", str(local.folder / new), *options)
    return local.folder / new


def sign(file: Path, *signers: Identity) -> None:
    for identity in signers:
        run("charter", "sign", str(file), "--key", str(identity.path), "--yes")


def goes_on(local: LocalStudy, file: Path, *, rounds: int = MORE) -> StudyRun:
    """Starts aggregator and nodes under the successor, and runs the researcher's script once more."""
    first = read_charter(local.folder / "charter.toml")
    ledger = Folder(local.folder / "charter.rounds").ledger(first)
    local.start_aggregator()
    local.start()
    again = fit(local, rounds=rounds)
    assert again.finished
    assert len(again.receipts) == rounds
    assert again.receipts[0].cohort.model == ledger.model == read_charter(file).limits.first_model
    before = local.folder / "charter.rounds" / first.digest.hex()
    found = audit(  # what was there lies aside, whole
        read_lines((before / "chain.jsonl").read_bytes().splitlines(keepends=True)),
        charter=first,
        collateral=no_collateral,
        accept_simulated=True,
    )
    assert found.ledger.records == ledger.records
    run("study", "model", str(before), "--out", str(local.folder / "before.safetensors"))
    return again


def spent(local: LocalStudy, name: str, capsys: pytest.CaptureFixture[str]) -> int:
    capsys.readouterr()
    run("node", "log", str(local.write_configuration(name)), "--json")
    (budget,) = json.loads(capsys.readouterr().out)["budgets"]
    return int(budget["spent"])


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code
    return " ".join(capsys.readouterr().err.split())


def test_a_hospital_joins(local: LocalStudy, capsys: pytest.CaptureFixture[str]) -> None:
    fit(local)
    dave = Identity.create(local.folder / "dave.key")
    file = succeed(local, "--add-owner", f"dave={dave.fingerprint}", "--rounds", str(MORE))
    told = capsys.readouterr().out
    assert "dave joins as owner" in told
    assert "by a way that you know" in told
    sign(file, *local.identities.values(), dave)
    local.adopt(file, identities={"dave": dave}, owners={"dave": columns(local.folder, "dave")})
    capsys.readouterr()
    second = goes_on(local, file)
    told = "".join(capsys.readouterr())
    assert "the averages of FedAvgM begin anew" in told
    assert "goes on under serial 2" in told
    assert all(done.owners == ("alice", "bob", "carol", "dave") for done in second.history)
    assert spent(local, "alice", capsys) == ROUNDS + MORE
    assert spent(local, "dave", capsys) == MORE


def test_a_hospital_leaves_half_way(local: LocalStudy, capsys: pytest.CaptureFixture[str]) -> None:
    def leave(done: Round) -> None:
        raise InterruptedError("carol wants to leave")

    with pytest.raises(InterruptedError):
        fit(local, on_round=leave, on_error="stop")
    file = succeed(local, "--remove", "carol")
    (left,) = (job.rounds for job in read_charter(file).jobs)
    assert 0 < left < ROUNDS
    assert "carol is an auditor, and was an owner" in capsys.readouterr().out
    sign(file, local.identities["alice"], local.identities["bob"])
    alice = local.write_configuration("alice")
    alice.write_text(alice.read_text().replace("charter.toml", file.name))
    local.close()
    assert "lacks the signature of carol" in refused(capsys, "node", "check", str(alice))
    sign(file, local.identities["carol"])
    local.adopt(file)
    second = goes_on(local, file, rounds=left)
    assert all(done.owners == ("alice", "bob") for done in second.history)


def test_a_key_is_rotated(local: LocalStudy, capsys: pytest.CaptureFixture[str]) -> None:
    fit(local)
    former, later = local.identities["carol"], Identity.create(local.folder / "carol-2.key")
    file = succeed(local, "--rotate", f"carol={later.fingerprint}", "--rounds", str(MORE))
    assert "its id stays" in capsys.readouterr().out
    sign(file, local.identities["alice"], local.identities["bob"], later)
    old = str(local.folder / "charter.toml")
    run("charter", "hand-over", str(file), "--old", old, "--key", str(former.path))
    local.adopt(file)
    told = refused(capsys, "node", "check", str(local.write_configuration("carol")))
    assert "is no member's" in told  # the former key
    local.adopt(file, identities={"carol": later})
    second = goes_on(local, file)
    assert all(done.owners == OWNERS for done in second.history)
    assert spent(local, "carol", capsys) == ROUNDS + MORE  # it is the same owner


def test_a_lost_key_is_replaced_after_a_wait(local: LocalStudy, capsys: pytest.CaptureFixture[str]) -> None:
    fit(local)
    later = Identity.create(local.folder / "carol-2.key")
    file = succeed(local, "--rotate", f"carol={later.fingerprint}", "--rounds", str(MORE))
    sign(file, local.identities["alice"], local.identities["bob"], later)
    for name in ("alice", "bob"):  # their nodes run meanwhile
        configuration = str(local.folder / f"{name}.toml")
        assert "waits 30 days from now on" in refused(capsys, "node", "note", configuration, str(file))
        assert "first seen here on" in refused(capsys, "node", "note", configuration, str(file))
    assert local.running("alice")
    local.adopt(file, identities={"carol": later})
    carol = local.write_configuration("carol")
    assert "waits 30 days from now on" in refused(capsys, "node", "serve", str(carol))
    for name in OWNERS:
        seen = local.folder / f"{name}.state" / "study.seen"  # 30 days pass
        digest, _, known = seen.read_text().split()
        seen.write_text(f"{digest} 2026-01-01T00:00:00+00:00 {known}\n")
    second = goes_on(local, file)
    assert all(done.owners == OWNERS for done in second.history)


def test_rounds_are_added(local: LocalStudy, capsys: pytest.CaptureFixture[str]) -> None:
    fit(local)
    assert "say how many more" in refused(
        capsys, "charter", "succeed", str(local.folder / "charter.toml"), "--out", str(local.folder / "none.toml")
    )
    file = succeed(local, "--rounds", "3")
    assert "limits.rounds is 7, and was 4" in capsys.readouterr().out
    sign(file, *local.identities.values())
    configuration = local.write_configuration("alice").read_text()
    local.adopt(file)
    goes_on(local, file, rounds=3)
    assert spent(local, "alice", capsys) == 7
    local.kill("alice")
    (local.folder / "alice.toml").write_text(configuration)  # which names serial 1 still
    told = refused(capsys, "node", "serve", str(local.folder / "alice.toml"))
    assert "is older than serial 2" in told
    assert "Name the file of the newer one" in told
