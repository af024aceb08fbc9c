"""The verifier: every kind of evidence goes its own way, and a refusal lists every check that failed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cloister.attest import simulated, simulated_report, verifier
from cloister.attest.dcap import verify as dcap
from cloister.attest.dcap.collateral import DcapCollateral, SnpCollateral
from cloister.attest.evidence import Evidence
from cloister.attest.reference import SimulatedEntry
from cloister.attest.verifier import STALE, Roots, authenticate, verify
from cloister.errors import CollateralError, EvidenceError, NotGenuineError, UnacceptableError
from tests.support.tee import GUEST
from tests.vectors.attest import make_snp

NOW = datetime(2026, 7, 1, tzinfo=UTC)
MEASUREMENT, PLATFORM, REPORT_DATA = b"\x11" * 48, b"\x22" * 32, b"\x33" * 64
ENTRY = SimulatedEntry(
    name="rehearsal",
    measurement=frozenset({MEASUREMENT}),
    min_svn=2,
    platforms=frozenset({f"simulated:{PLATFORM.hex()}"}),
)
DCAP = DcapCollateral(
    pck_crl_issuer_chain="",
    root_ca_crl=b"",
    pck_crl=b"",
    tcb_info_issuer_chain="",
    tcb_info="",
    tcb_info_signature=b"",
    qe_identity_issuer_chain="",
    qe_identity="",
    qe_identity_signature=b"",
)
SNP = SnpCollateral(vek=None, ask=None, ark=None, crl=None)


def report(
    *, measurement: bytes = MEASUREMENT, svn: int = 2, debug: bool = False, about: bytes = REPORT_DATA
) -> Evidence:
    quote = simulated_report.make(about, measurement=measurement, platform=PLATFORM, svn=svn, debug=debug)
    return Evidence(tee="simulated", quote=quote)


def judge(evidence: Evidence, **changed: Any) -> verifier.Verified:
    options = {"reference": (ENTRY,), "collateral": None, "now": NOW, "report_data": REPORT_DATA, **changed}
    return verify(evidence, **options)


def test_acceptable_evidence_gives_its_claims_and_the_entry_that_matched() -> None:
    other = replace(ENTRY, name="another", measurement=frozenset({bytes(48)}))
    found = judge(report(), reference=(other, ENTRY))
    assert found.entry is ENTRY
    assert (found.claims.tee, found.claims.report_data) == ("simulated", REPORT_DATA)


@pytest.mark.parametrize("about", [b"\x34" * 64, bytes(64), REPORT_DATA[:63] + b"\x34"])
def test_evidence_about_something_else(about: bytes) -> None:
    with pytest.raises(UnacceptableError) as caught:
        judge(report(about=about))
    assert caught.value.failures == (STALE,)


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_a_report_data_of_another_size_matches_nothing(size: int) -> None:
    with pytest.raises(UnacceptableError) as caught:
        judge(report(), report_data=(REPORT_DATA * 2)[:size])
    assert caught.value.failures == (STALE,)


def test_every_failed_check_is_listed() -> None:
    with pytest.raises(UnacceptableError) as caught:
        judge(report(measurement=bytes(48), svn=1, debug=True, about=bytes(64)))
    stale, *others = caught.value.failures
    assert stale == STALE
    assert len(others) == 3
    for text in ("debug", "measurement is 0000", "svn is 1, below 2"):
        assert sum(text in other for other in others) == 1
    assert all(other.startswith("rehearsal: ") for other in others)


def test_an_empty_reference_accepts_nothing() -> None:
    with pytest.raises(UnacceptableError, match="no entry of the reference names simulated TEEs"):
        judge(report(), reference=())


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
@pytest.mark.parametrize("collateral", [None, SNP])
def test_a_quote_without_collateral_of_its_kind_is_not_judged(tee: Any, collateral: Any) -> None:
    with pytest.raises(CollateralError, match="DCAP collateral"):
        authenticate(Evidence(tee=tee, quote=bytes(5000)), collateral=collateral, now=NOW)


def test_a_report_with_collateral_of_another_kind_is_not_judged() -> None:
    with pytest.raises(CollateralError, match="not by DCAP collateral"):
        authenticate(Evidence(tee="snp", quote=bytes(1184)), collateral=DCAP, now=NOW)


@pytest.mark.parametrize("tee", ["sgx", "tdx", "simulated"])
def test_certificates_that_come_along_are_for_snp_only(tee: Any) -> None:
    evidence = Evidence(tee=tee, quote=report().quote, endorsements=(b"certificate",))
    with pytest.raises(NotGenuineError, match="no certificates"):
        authenticate(evidence, collateral=DCAP, now=NOW)


@pytest.mark.parametrize("tee", ["sgx", "tdx", "snp"])
def test_simulated_evidence_is_none_of_a_real_tee(tee: Any) -> None:
    collateral = SNP if tee == "snp" else DCAP
    with pytest.raises((EvidenceError, NotGenuineError, CollateralError)):
        authenticate(Evidence(tee=tee, quote=report().quote), collateral=collateral, now=NOW)


def test_a_quote_of_another_kind_than_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the maker's library reads decides, not the word that came along."""
    found = simulated.authenticate(report().quote)
    monkeypatch.setattr(dcap, "authenticate", lambda *_, **__: found)
    with pytest.raises(NotGenuineError, match="a quote of simulated was called evidence of tdx"):
        authenticate(Evidence(tee="tdx", quote=b"quote"), collateral=DCAP, now=NOW)


def test_evidence_of_our_own_making_is_genuine_only_where_our_root_is_named() -> None:
    platform = make_snp.Platform()
    evidence = Evidence(
        tee="snp",
        quote=platform.report({0x50: REPORT_DATA}),
        endorsements=(platform.vek(), platform.ask(), platform.ark()),
    )
    options: Any = {"reference": (GUEST,), "now": make_snp.NOW}
    found = judge(evidence, **options, unsafe_roots=Roots(dcap=None, snp=platform.roots))
    assert (found.claims.tee, found.entry) == ("snp", GUEST)
    with pytest.raises(NotGenuineError):
        judge(evidence, **options)
