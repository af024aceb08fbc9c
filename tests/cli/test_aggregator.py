"""``cloister aggregator``: what it refuses to start, and a process that starts, proves itself and ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.attest.attester.measure import measure
from cloister.cli import main
from cloister.cli.aggregator import app
from cloister.net.attested import attest_peer
from cloister.net.policy import AttestationPolicy
from cloister.testing.processes import Service
from tests.support.attested import ADDRESS, Study
from tests.support.processes import descendants, running

SECOND = "second.example:7443"
run = CliRunner().invoke


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = Study(tmp_path_factory.mktemp("study"))
    found.charter = found.agree(interactive=False, measurements=[measure("aggregator")])
    return found


@pytest.fixture
def charter(study: Study) -> str:
    return str(study.folder / "charter.toml")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["aggregator", "serve", *words])
    out, err = capsys.readouterr()
    assert "ready" not in out
    assert "Traceback" not in out + err
    return int(caught.value.code or 0), " ".join(err.split())


@pytest.mark.skipif(
    any(map(os.path.exists, ("/dev/attestation", "/sys/kernel/config/tsm/report"))), reason="this runs in a TEE"
)
@pytest.mark.parametrize("options", [[], ["--tee", "auto"]])
def test_without_a_tee_it_does_not_start(capsys, charter: str, options: list[str]) -> None:
    code, err = refused(capsys, "--charter", charter, "--listen", "127.0.0.1:0", *options)
    assert code == 1
    assert "this process runs in no TEE" in err
    assert "/dev/attestation" in err
    assert "/sys/kernel/config/tsm/report" in err
    assert "--tee simulated" in err
    assert "proves nothing" in err


def test_a_charter_is_needed(capsys, tmp_path: Path) -> None:
    code, err = refused(capsys, "--tee", "simulated")
    assert code == 2
    code, err = refused(capsys, "--charter", str(tmp_path / "none.toml"), "--tee", "simulated")
    assert code == 1
    assert "none.toml cannot be read" in err


def test_a_charter_with_faults(capsys, tmp_path: Path) -> None:
    (tmp_path / "charter.toml").write_text('format = "cloister charter 1"\n')
    code, err = refused(capsys, "--charter", str(tmp_path / "charter.toml"), "--tee", "simulated")
    assert code == 1
    assert "fault" in err


def test_which_of_several_addresses_it_has_is_said(capsys, study: Study, tmp_path: Path) -> None:
    text = (study.folder / "charter.toml").read_text()
    (tmp_path / "charter.toml").write_text(text.replace(f'["{ADDRESS}"]', f'["{ADDRESS}", "{SECOND}"]'))
    for options in ([], ["--name", "third.example:7443"]):
        code, err = refused(capsys, "--charter", str(tmp_path / "charter.toml"), "--tee", "simulated", *options)
        assert code == 1
        assert f"with --name: {ADDRESS}, {SECOND}" in err


def test_an_address_where_it_cannot_listen(capsys, charter: str) -> None:
    words = ["--charter", charter, "--tee", "simulated", "--listen"]
    assert refused(capsys, *words, "192.0.2.1:1")[0] == 1  # TEST-NET-1, RFC 5737: nobody's
    assert refused(capsys, *words, "nowhere")[0] == 1


def test_help_says_what_simulated_means() -> None:
    done = run(app, ["serve", "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "rehearse; proves nothing" in done.output


# A process


@pytest.fixture(scope="module")
def aggregator(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    words = ["aggregator", "serve", "--charter", str(study.folder / "charter.toml"), "--tee", "simulated"]
    log = tmp_path_factory.mktemp("log") / "aggregator.log"
    service = Service([*words, "--listen", "127.0.0.1:0"], log=log)
    try:
        yield service
    finally:
        service.end()


@pytest.mark.e2e
def test_a_process_proves_itself_and_ends_when_it_is_asked_to(study: Study, aggregator: Service) -> None:
    at, fingerprint = aggregator.ready()
    policy = AttestationPolicy(charter=study.charter, accept_simulated=True)
    with attest_peer(ADDRESS, policy=policy, at=at) as attested:
        assert attested.connection.peer == fingerprint
        assert attested.entry in study.charter.reference
        libraries = Path(f"/proc/{aggregator.process.pid}/maps").read_text()
        assert "libtorch" not in libraries
        pids = {aggregator.process.pid} | descendants(aggregator.process.pid)
        aggregator.ask_to_end()
        assert aggregator.process.wait(20) == 0
    assert not running(pids)
