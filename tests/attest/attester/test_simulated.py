"""The simulated attester: it says what runs, and which machine this is, and signs it with the key that all have."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cloister.attest import simulated
from cloister.attest.attester.measure import measure
from cloister.attest.attester.simulated import MACHINE_IDS, SVN, SimulatedAttester, platform
from cloister.errors import EvidenceError


def test_it_says_what_runs_here():
    evidence = SimulatedAttester.start("aggregator").evidence(b"x" * 64)
    claims = simulated.authenticate(evidence.quote)
    assert (evidence.tee, evidence.endorsements) == ("simulated", ())
    assert (claims.measurement, claims.platform) == (measure("aggregator"), platform())
    assert (claims.report_data, claims.svn, claims.debug) == (b"x" * 64, SVN, False)


def test_threads_get_their_own():
    attester = SimulatedAttester.start("aggregator")
    asked = [bytes([number]) * 64 for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attester.evidence, asked))
    assert [simulated.authenticate(evidence.quote).report_data for evidence in found] == asked


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_it_signs_64_bytes(size):
    with pytest.raises(EvidenceError, match="64"):
        SimulatedAttester.start("aggregator").evidence(bytes(size))


def test_the_machine_is_named_by_the_first_id_that_it_has(tmp_path):
    empty, unset, machine, boot = (tmp_path / name for name in ("empty", "unset", "machine", "boot"))
    empty.write_text("")
    unset.write_text("uninitialized\n")
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    boot.write_text("6b3c5f0e-0d57-4f0e-8d4e-2f6f7c1d8a90\n")
    paths = tuple(str(path) for path in (tmp_path / "missing", empty, unset, machine, boot))

    assert platform(paths) == platform((str(machine),)) != platform((str(boot),))
    assert len(platform(paths)) == 32
    assert platform(()) == platform((str(empty),)) != platform(paths)


def test_the_machine_keeps_its_name_and_its_id_to_itself():
    assert platform() == platform()
    assert MACHINE_IDS[0] == "/etc/machine-id"
    assert b"0123456789abcdef" not in platform()
