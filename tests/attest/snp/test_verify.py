"""What hardware made is genuine at its time, says what it is known to say, and is left undecided at other times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cloister.attest.claims import SnpClaims
from cloister.attest.dcap.collateral import SnpCollateral
from cloister.attest.snp import verify
from cloister.attest.snp.certificates import Certificate
from cloister.attest.snp.report import Report
from cloister.attest.tcb import SnpTcb
from cloister.errors import CollateralError
from tests.attest.genuine import SnpVector, needs_vectors, snp_names
from tests.attest.genuine import snp as vector

pytestmark = needs_vectors


@pytest.fixture(params=snp_names())
def genuine(request: pytest.FixtureRequest) -> SnpVector:
    return vector(request.param)


def judge(genuine: SnpVector, now: datetime) -> SnpClaims:
    chain = (genuine.vek, genuine.ask, genuine.ark)
    return verify.authenticate(genuine.report, endorsements=chain, collateral=None, now=now)


def test_says_what_it_is_known_to_say(genuine):
    meta, claims = genuine.meta, judge(genuine, genuine.now)
    assert (claims.product, claims.vmpl, claims.csp_id) == (meta["product"], meta["vmpl"], meta["csp"])
    assert (claims.policy, claims.debug) == (int(meta["policy"], 16), bool(meta["debug"]))
    assert claims.signer == ("vlek" if meta["csp"] else "vcek")
    assert claims.platform_info == int(meta["plat_info"], 16)
    assert not claims.migratable
    for ours, theirs in {
        "reported": "t_reported",
        "committed": "t_committed_tcb",
        "launch": "t_launch_tcb",
        "current": "t_current_tcb",
    }.items():
        assert getattr(claims, ours) == SnpTcb(**meta["tcb"][theirs])
    assert claims.chip_id == (None if claims.signer == "vlek" else genuine.report[0x1A0:0x1E0])
    assert (claims.report_data, claims.measurement) == (genuine.report[0x50:0x90], genuine.report[0x90:0xC0])
    assert claims.crl_issued is None
    assert claims.crl_expires is None


def test_the_report_names_its_firmware(genuine):
    read = Report.parse(genuine.report)
    assert [list(read.current_version)[::-1], list(read.committed_version)[::-1]] == genuine.meta["fw"]
    assert read.version == genuine.meta["version"]


def test_certificates_may_come_from_either_side_and_in_any_order(genuine):
    here = judge(genuine, genuine.now)
    own = SnpCollateral(vek=genuine.vek, ask=genuine.ask, ark=genuine.ark, crl=None)
    assert verify.authenticate(genuine.report, endorsements=(), collateral=own, now=genuine.now) == here
    mixed = SnpCollateral(vek=None, ask=genuine.ask, ark=None, crl=None)
    came = (genuine.ark, genuine.vek)
    assert verify.authenticate(genuine.report, endorsements=came, collateral=mixed, now=genuine.now) == here


def test_outside_its_validity_nothing_is_decided(genuine):
    first, last = (datetime.fromisoformat(text) for text in genuine.meta["vek_validity"])
    assert judge(genuine, first) == judge(genuine, last) == judge(genuine, genuine.now)
    with pytest.raises(CollateralError, match="not yet valid"):
        judge(genuine, first - timedelta(seconds=1))
    with pytest.raises(CollateralError, match="no longer valid"):
        judge(genuine, last + timedelta(seconds=1))


def test_in_2050_every_certificate_is_named(genuine):
    with pytest.raises(CollateralError) as refused:
        judge(genuine, datetime(2050, 1, 1, tzinfo=UTC))
    assert str(refused.value).count("no longer valid") == 3


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_certificate_is_named_with_where_to_get_it(genuine, missing):
    chain = [genuine.vek, genuine.ask, genuine.ark]
    del chain[missing]
    place = "it comes with the evidence" if genuine.meta["csp"] and not missing else "get https://kdsintf.amd.com/v"
    with pytest.raises(CollateralError, match=place):
        verify.authenticate(genuine.report, endorsements=chain, collateral=None, now=genuine.now)


def test_the_url_of_a_vcek_has_chip_and_levels():
    turin = Report.parse(vector("Turin_VCEK_v5_b6e4357b").report)
    assert verify.vcek_url(turin, "Turin") == (
        "https://kdsintf.amd.com/vcek/v1/Turin/59790fb1c39f35c1?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=81"
    )


def test_a_certificate_is_read_as_it_is():
    ask = Certificate.parse(vector("Milan_VLEK_v3_baccec91").ask)
    assert (ask.subject, ask.issuer, ask.serial) == ("SEV-VLEK-Milan", "ARK-Milan", 0x10101)
    assert ask.not_after == datetime(2047, 11, 16, 22, 45, 24, tzinfo=UTC)
    assert ask.is_ca
    assert not ask.signs_crls
