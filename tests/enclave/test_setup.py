"""``python -m cloister.enclave``: what it refuses, and a process that starts, proves itself and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloister.attest.attester.measure import measure
from cloister.charter import Charter
from cloister.enclave.__main__ import main
from cloister.net.attested import attest_peer
from cloister.net.policy import AttestationPolicy
from cloister.testing.processes import Service
from tests.support.attested import ADDRESS, Study


def encoded(charter: Charter, folder: Path) -> str:
    """A charter's file, in the form in which an aggregator reads it."""
    file = folder / "charter.cbor"
    file.write_bytes(charter.encoded)
    return str(file)


def refused(*words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--tee", "simulated"])
    return str(caught.value.code)


def test_a_charter_that_is_interactive_is_for_a_node(tmp_path: Path) -> None:
    study = Study(tmp_path)
    charter = study.agree(interactive=True, measurements=[measure("aggregator")])
    assert "is interactive: its aggregator is a node" in refused("--charter", encoded(charter, tmp_path))


def test_what_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    assert refused() == "2"  # wrong usage
    assert "none.cbor cannot be read" in refused("--charter", str(tmp_path / "none.cbor"))
    study = Study(tmp_path)
    charter = study.agree(interactive=False, measurements=[measure("aggregator")])
    assert "charter.toml: this is no encoded charter" in refused("--charter", str(tmp_path / "charter.toml"))
    words = ["--charter", encoded(charter, tmp_path)]
    assert f"with --name: {ADDRESS}" in refused(*words, "--name", "other.example:7443")
    (tmp_path / "collateral").write_text("{}")
    assert "the collateral is partial" in refused(*words, "--collateral", str(tmp_path / "collateral"))
    assert "not an address" in refused(*words, "--listen", "nowhere")


def test_software_that_the_charter_does_not_list(tmp_path: Path) -> None:
    """Told at the start, and not by each member later."""
    charter = Study(tmp_path).agree(interactive=False)  # lists a measurement of the tests' own
    why = refused("--charter", encoded(charter, tmp_path), "--listen", "nowhere")
    assert "does not list this software, so every member would refuse it: as a simulated TEE it is measurement" in why
    assert measure("aggregator").hex() in why
    assert "Start the version that the charter lists" in why


def test_a_charter_that_lacks_a_signature(tmp_path: Path) -> None:
    study = Study(tmp_path)
    words = ["--charter", encoded(study.agree(interactive=False, measurements=[measure("aggregator")]), tmp_path)]
    words += ["--signatures", str(tmp_path / "charter.sigs"), "--listen", "nowhere"]
    assert "not an address" in refused(*words)  # the next thing that it looks at
    (tmp_path / "charter.sigs" / "bob.sig").unlink()
    why = refused(*words)
    assert "is not signed by bob: `cloister charter sign` does it; members refuse it before" in why
    assert str(tmp_path / "charter.sigs") in why


@pytest.mark.e2e
def test_a_process_that_members_would_refuse_says_so_and_ends(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for measurements, why in (
        ([b"\x3f" * 48], "does not list this software"),
        ([measure("aggregator")], "is not signed"),
    ):
        charter = study.agree(interactive=False, measurements=measurements)
        (tmp_path / "charter.sigs" / "alice.sig").unlink()
        for program, words in (
            (
                ("-m", "cloister.enclave"),
                ["--charter", encoded(charter, tmp_path), "--signatures", str(tmp_path / "charter.sigs")],
            ),
            (("-m", "cloister"), ["aggregator", "serve", "--charter", str(tmp_path / "charter.toml")]),
        ):
            done = subprocess.run(
                [sys.executable, *program, *words, "--tee", "simulated"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 1
            assert why in " ".join(done.stderr.split())
            assert "ready" not in done.stdout
            assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_a_process_proves_itself_and_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    """Under the measurement that `cloister aggregator serve` has: the same software runs in the same role."""
    study = Study(tmp_path)
    charter = study.agree(interactive=False, measurements=[measure("aggregator")])
    words = ["--charter", encoded(charter, tmp_path), "--tee", "simulated", "--listen", "127.0.0.1:0"]
    service = Service(words, log=tmp_path / "log", program=("-m", "cloister.enclave"))
    try:
        at, fingerprint = service.ready()
        with attest_peer(ADDRESS, policy=AttestationPolicy(charter=charter, accept_simulated=True), at=at) as attested:
            assert attested.connection.peer == fingerprint
            service.ask_to_end()
            assert service.process.wait(20) == 0
    finally:
        service.end()
