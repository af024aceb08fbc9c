"""Which TEE is taken: a real one or none, and a simulated one only where it is asked for."""

from __future__ import annotations

import pytest

from cloister.attest.attester import find
from cloister.attest.attester.gramine import GramineAttester
from cloister.attest.attester.measure import measure
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.attester.tsm import TsmAttester
from cloister.errors import NoTeeError
from tests.attest.fusefs import needs_fuse
from tests.attest.tsmfs import ConfigfsTsm, Gramine, snp_report


@pytest.fixture
def places(tmp_path):
    device, tsm = tmp_path / "attestation", tmp_path / "report"
    device.mkdir()
    tsm.mkdir()
    return device, tsm


def test_no_tee_is_said_and_not_simulated(tmp_path):
    device, tsm = tmp_path / "attestation", tmp_path / "report"
    with pytest.raises(NoTeeError) as refused:
        find("auto", device=device, tsm=tsm)
    for words in (str(device), str(tsm), "Gramine", "TDX", "SEV-SNP", "--tee simulated", "proves nothing"):
        assert words in str(refused.value)


def test_a_simulated_one_where_it_is_asked_for(tmp_path):
    found = find("simulated", role="node", device=tmp_path, tsm=tmp_path)
    assert isinstance(found, SimulatedAttester)
    assert found.measurement == measure("node")


@needs_fuse
def test_a_real_one_is_not_taken_where_a_simulated_one_is_asked_for(places):
    device, tsm = places
    gramine, kernel = Gramine(), ConfigfsTsm()
    with gramine.mounted(device), kernel.mounted(tsm):
        assert find("simulated", device=device, tsm=tsm).tee == "simulated"
    assert (gramine.quotes, kernel.made) == (0, [])


@needs_fuse
def test_gramine_comes_first(places):
    device, tsm = places
    with Gramine().mounted(device), ConfigfsTsm().mounted(tsm):
        assert isinstance(find("auto", device=device, tsm=tsm), GramineAttester)


@needs_fuse
@pytest.mark.parametrize(("provider", "tee"), [("tdx_guest", "tdx"), ("sev_guest", "snp")])
def test_then_configfs(places, provider, tee):
    device, tsm = places
    device.rmdir()
    with ConfigfsTsm(tee=snp_report, provider=provider, table=b"").mounted(tsm):
        found = find("auto", device=device, tsm=tsm, privilege=2)
        assert found == TsmAttester(tee=tee, reports=tsm, privilege=2)


@needs_fuse
def test_a_tee_that_is_not_set_up_is_refused_and_not_passed_over(places):
    device, tsm = places
    with Gramine(kind="none").mounted(device), ConfigfsTsm().mounted(tsm), pytest.raises(NoTeeError, match="manifest"):
        find("auto", device=device, tsm=tsm)


def test_folders_of_these_names_are_no_tee(places):
    device, tsm = places
    with pytest.raises(NoTeeError, match="attestation_type: No such file"):
        find("auto", device=device, tsm=tsm)
    device.rmdir()
    with pytest.raises(NoTeeError, match="provider: No such file"):
        find("auto", device=device, tsm=tsm)
    assert list(tsm.iterdir()) == []
