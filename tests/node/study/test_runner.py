"""A node in a study: it dials, verifies, trains, signs, comes back, and remembers."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cloister
from cloister.cli.node import app
from cloister.errors import CharterError, ConfigurationError, RecordsError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job, job_digest
from cloister.node.setup import node_of
from cloister.node.study.runner import Pauses
from cloister.wire import rounds as w
from cloister.worker import flatten as deltas
from cloister.worker.values import as_bytes
from tests.node.federations import OWNERS, SEED, SOON, Federation, loss, model, rows_of
from tests.support.processes import wait_until


@pytest.fixture
def study(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def simulated(job: Job, *, rounds: int) -> bytes:
    """What the same study comes to in one process."""
    run = cloister.simulate(
        model(),
        loss,
        owners={name: rows_of(name) for name in OWNERS},
        optimizer=cloister.SGD(lr=0.1),
        batch_size=16,
        rounds=rounds,
        steps=5,
        floor=2,
        clip=10.0,
        seed=SEED,
        job=job_digest(jobs.encode(job)),
        on_round=lambda _: None,
    )
    floats = deltas.floats_of(run.model)
    return bytes(as_bytes(deltas.flatten(floats, layout=deltas.layout_of(floats))))


@pytest.mark.slow
def test_a_study_ends_in_the_bits_of_its_simulation_and_both_owners_remember_it(study, caplog):
    caplog.set_level(logging.INFO, logger="cloister.node")
    with study.aggregator(), study.nodes(), study.researcher() as carol:
        carol.submit(study.job())
        finished = carol.until(w.Finished)
        assert study.remembered(2)
    assert (finished.done, finished.text) == (2, "")
    assert carol.models[-1] == simulated(study.job(), rounds=2)
    for name in OWNERS:
        with closing(study.records(name)) as records:
            ledger = Ledger.from_records(study.charter, records.chain(study.charter.digest))
            assert [receipt.cohort.round for receipt in ledger.receipts] == [1, 2]
            kept = records.model(study.charter.digest)
            assert kept is not None
            assert (kept.digest, kept.vector) == (ledger.model, carol.models[-1])
            assert records.spent(f"#mri {name}") == 2
    told = "\n".join(record.getMessage() for record in caplog.records)
    for line in (
        "is verified",
        "round 1: training on #mri bob",
        "round 2: consented to the cohort",
        "round 2: committed the cohort",
        "round 2 is released",
    ):
        assert line in told, told


@pytest.mark.slow
def test_an_aggregator_that_is_replaced_and_a_study_that_goes_on(study):
    """The new instance knows nothing; what it goes on from, the owners hand over."""
    with study.aggregator(), study.nodes():
        with study.researcher() as carol:
            carol.submit(study.job(name="once"))
            carol.until(w.Finished)
        assert study.remembered(1)
    study.vector = carol.models[-1]
    with closing(study.records("bob")) as records:
        start = Ledger.from_records(study.charter, records.chain(study.charter.digest)).model
    with study.aggregator(), study.nodes(), study.researcher() as carol:
        carol.until(w.Chain)  # an owner is there, and has handed over what there is
        carol.submit(study.job(name="again", start=start))
        assert carol.until(w.Finished).done == 1
        assert study.remembered(2)
    with closing(study.records("alice")) as records:
        ledger = Ledger.from_records(study.charter, records.chain(study.charter.digest))
    assert [receipt.cohort.round for receipt in ledger.receipts] == [1, 2]
    assert len(ledger.instances) == 2


@pytest.mark.slow
def test_two_charters_side_by_side_in_one_node_with_one_budget(tmp_path):
    """Both studies run at once; what was released of a data set under the one is spent under the other."""
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
    first = Federation(folders[0])
    second = Federation(folders[1], beside=first)
    with first.aggregator(), second.aggregator(), second.nodes():
        with first.researcher() as carol, second.researcher() as again:
            carol.submit(first.job(name="once"))
            again.submit(second.job(name="once"))
            assert carol.until(w.Finished).done == again.until(w.Finished).done == 1
        for study in (first, second):
            assert wait_until(lambda study=study: first.knows(study.charter, 1), within_s=SOON)
    for name in OWNERS:
        with closing(first.records(name)) as records:
            assert set(records.charters) == {first.charter.digest, second.charter.digest}
            assert records.spent(f"#mri {name}") == 2
    told = CliRunner().invoke(app, ["log", "--json", str(first.folder / "bob.toml")]).output
    assert json.loads(told)["budgets"] == [{"data": "#mri bob", "spent": 2, "most": 100, "left": 98}]


def test_pauses_grow_and_begin_anew_after_a_connection_that_lasted():
    pauses = Pauses(lambda: 1.0)
    assert [pauses.after(0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses.after(59.0) == 60  # an aggregator that ends each connection soon is not dialled more often
    assert pauses.after(61.0) == 1
    assert Pauses(lambda: 0.0).after(0.0) == 0.5


@pytest.mark.slow
def test_a_node_that_waits_for_its_aggregator_stops_at_once(study, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="cloister.node")
    monkeypatch.setattr("cloister.node.study.runner.PAUSE_S", (3600.0, 3600.0))
    study.port = 9  # nobody listens
    with study.node("bob"):
        assert wait_until(lambda: "cannot be reached" in caplog.text, within_s=SOON)


@pytest.mark.slow
def test_an_aggregator_that_proves_something_else_hears_nothing(study, caplog):
    caplog.set_level(logging.INFO, logger="cloister.node")
    with study.aggregator() as instance:
        instance.charter = bytes(32)  # type: ignore[misc]
        with study.node("bob"):
            assert wait_until(lambda: "another charter" in caplog.text, within_s=SOON)
    with closing(study.records("bob")) as records:
        assert records.charters == ()


@pytest.mark.slow
def test_data_that_does_not_fit_is_told_and_the_round_is_void(study, caplog):
    caplog.set_level(logging.INFO, logger="cloister.node")
    with (
        study.aggregator(),
        study.node("alice"),
        study.node("bob", columns='["y", "x"]'),
        study.researcher() as carol,
    ):
        carol.submit(study.job())
        carol.until(w.Over)
    assert "column 'y'" in caplog.text
    with closing(study.records("bob")) as records:
        assert not records.took_part(study.charter.digest)


def test_two_nodes_on_one_state(study):
    with study.node("bob"), pytest.raises(RecordsError, match="another node"):
        node_of(study.folder / "bob.toml")


def test_damaged_records_keep_a_node_from_starting(study):
    with study.node("bob"):
        pass
    file = study.folder / "bob.state" / "records.sqlite"
    file.write_bytes(b"nothing that SQLite knows" * 100)
    with pytest.raises(RecordsError, match="damaged"):
        node_of(study.folder / "bob.toml")


@pytest.mark.slow
def test_node_log_shows_each_round_and_what_is_left(study):
    run = CliRunner().invoke
    file = str(study.configuration("bob"))
    assert "no records yet" in run(app, ["log", file]).output
    with study.aggregator(), study.nodes(), study.researcher() as carol:
        carol.submit(study.job(name="once"))
        carol.until(w.Finished)
        assert study.remembered(1)
        assert run(app, ["log", file]).exit_code == 0  # while it runs
    shown = run(app, ["log", file], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert "#mri bob" in shown.output
    told = json.loads(run(app, ["log", "--json", file]).output)
    assert told["budgets"] == [{"data": "#mri bob", "spent": 1, "most": 100, "left": 99}]
    assert told["rounds"] == [
        {
            "charter": study.charter.digest.hex(),
            "round": 1,
            "data": "#mri bob",
            "contributed": True,
            "committed": "member",
            "spent": True,
            "released": True,
            "noise": None,
        }
    ]
    assert told["privacy"] == []


def test_check_shows_data_for_studies_and_the_faults_of_it(study):
    file = study.configuration("bob")
    run = CliRunner().invoke
    shown = run(app, ["check", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "for studies; no session finds it" in shown.output
    assert "it dials out" in shown.output
    study.configuration("bob", columns='["x", "z"]')
    shown = run(app, ["check", str(file)])
    assert "data_sets[0]" in shown.output
    assert "'z'" in shown.output


def test_check_tells_what_is_left_and_which_jobs_would_be_declined(study):
    run = CliRunner().invoke
    told = run(app, ["check", str(study.configuration("bob"))])
    assert told.exit_code == 0, told.output
    assert "rounds      100 of 100 left for #mri bob under" in told.output
    assert told.output.endswith("is in order\n")
    text = study.configuration("bob").read_text().replace('"#mri"', '"#mra"')
    file = study.folder / "other.toml"
    file.write_text(text)
    told = run(app, ["check", str(file)])
    assert "wants a data set with the tag '#mri', and none here has it; there is '#mra', 'bob'" in told.output
    assert told.output.endswith("is in order, but for the warnings above\n")


def test_a_charter_without_a_signature_and_a_node_without_an_address(study):
    (study.folder / "charter.sigs" / "alice.sig").unlink()
    with pytest.raises(CharterError, match="alice"):
        node_of(study.configuration("bob"))
    file = study.folder / "plain.toml"
    file.write_text('name = "bob"\nidentity = "bob.key"\n')
    with pytest.raises(ConfigurationError, match="listen"):
        node_of(file)
