"""``python -m cloister.enclave``: what it refuses, and a process that starts, proves itself and ends."""

from __future__ import annotations

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
    charter = study.agree(interactive=True)
    assert "is interactive: its aggregator is a node" in refused("--charter", encoded(charter, tmp_path))


def test_what_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    assert refused() == "2"  # wrong usage
    assert "none.cbor cannot be read" in refused("--charter", str(tmp_path / "none.cbor"))
    study = Study(tmp_path)
    charter = study.agree(interactive=False)
    assert "charter.toml: this is no encoded charter" in refused("--charter", str(tmp_path / "charter.toml"))
    words = ["--charter", encoded(charter, tmp_path)]
    assert f"with --name: {ADDRESS}" in refused(*words, "--name", "other.example:7443")
    (tmp_path / "collateral").write_text("{}")
    assert "the collateral is partial" in refused(*words, "--collateral", str(tmp_path / "collateral"))
    assert "not an address" in refused(*words, "--listen", "nowhere")


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
