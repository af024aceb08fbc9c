"""SGX and TDX: genuine quotes give what they say, at their time; what is no quote to its last byte is not read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dcap_qvl
import pytest

from cloister.attest.claims import SgxClaims, TdxClaims
from cloister.attest.dcap import verify as sgx_and_tdx
from cloister.attest.dcap.collateral import DcapCollateral
from cloister.attest.dcap.published import Published
from cloister.attest.dcap.quote import Quote
from cloister.attest.dcap.verify import STATUSES, authenticate
from cloister.attest.evidence import QUOTE_BYTES
from cloister.errors import AttestationError, CollateralError, EvidenceError, NotGenuineError, UnacceptableError
from tests.attest.genuine import DcapVector, dcap, dcap_names, needs_vectors
from tests.vectors.attest.make_dcap import NOW, SGX, TDX, build, parts

SECOND = timedelta(seconds=1)
REFUSED = {"Debug mode is enabled": "debug", "No matching TCB level found": "below every level"}


def judge(vector: DcapVector, *, now: datetime | None = None) -> SgxClaims | TdxClaims:
    return authenticate(vector.quote, collateral=DcapCollateral.parse(vector.collateral_json), now=now or vector.now)


@needs_vectors
@pytest.mark.parametrize("name", dcap_names())
def test_genuine_evidence_gets_its_verdict_at_its_time(name):
    vector = dcap(name)
    if vector.rejected:
        with pytest.raises(UnacceptableError, match=REFUSED[vector.verdict.removeprefix("reject: ")]):
            judge(vector)
    else:
        claims = judge(vector)
        assert (claims.tcb.status, claims.tcb.advisories) == (vector.status, vector.advisories)
        assert claims.tcb.status in STATUSES
        assert (claims.tee, claims.debug) == (name[:3], False)


@needs_vectors
@pytest.mark.parametrize("name", dcap_names())
@pytest.mark.parametrize(("days", "said"), [(-400, "not valid before"), (400, "expired on")])
def test_at_another_time_it_is_the_collateral_that_fails_and_all_of_it_is_named(name, days, said):
    vector = dcap(name)
    with pytest.raises(CollateralError, match=said) as fault:
        judge(vector, now=vector.now + timedelta(days=days))
    for part in ("TCB info", "QE identity", "root's CRL", "PCK CA's CRL"):
        assert part in str(fault.value)


@needs_vectors
@pytest.mark.parametrize("name", dcap_names())
def test_the_window_is_that_of_the_part_which_ends_first(name):
    vector = dcap(name)
    published = Published.read(DcapCollateral.parse(vector.collateral_json))
    latest_start = max(span.start for span in published.spans)
    last = published.expires - SECOND
    for good, bad in ((latest_start, latest_start - SECOND), (last, published.expires)):
        published.check_time(good)
        with pytest.raises(CollateralError):
            judge(vector, now=bad)
    if not vector.rejected:
        tcb = judge(vector, now=last).tcb
        assert tcb == judge(vector, now=latest_start).tcb
        assert (tcb.collateral_issued, tcb.collateral_expires) == (published.issued, published.expires)
        assert tcb.collateral_issued <= vector.now <= tcb.collateral_expires


@needs_vectors
def test_sgx_claims_are_the_bytes_of_the_report_body():
    vector = dcap("sgx-v3-swhardening-2025")
    claims, body = judge(vector), vector.quote[48:]
    assert isinstance(claims, SgxClaims)
    assert claims.mr_enclave == body[64:96]
    assert claims.mr_signer == body[128:160]
    assert claims.report_data == body[320:384]
    assert claims.attributes == body[48:64]
    assert claims.misc_select.to_bytes(4, "little") == body[16:20]
    assert claims.isv_prod_id.to_bytes(2, "little") + claims.isv_svn.to_bytes(2, "little") == body[256:260]
    assert claims.tcb.fmspc.hex() == "00606a000000"
    assert claims.tcb.ppid.hex() == "186950b6d8d014d89f0c144d1d90ebad"
    assert claims.tcb.platform_instance_id is not None
    assert (claims.tcb.eval_number, claims.tcb.pce_svn, claims.tcb.qe_isv_svn) == (17, 13, 9)
    assert claims.tcb.tcb_date == datetime(2024, 3, 13, tzinfo=UTC)


@needs_vectors
@pytest.mark.parametrize(("name", "start"), [("tdx-v4-uptodate-2025", 48), ("tdx-v5-td15ex-uptodate", 54)])
def test_tdx_claims_are_the_bytes_of_the_report_body(name, start):
    vector = dcap(name)
    claims, body = judge(vector), vector.quote[start:]
    assert isinstance(claims, TdxClaims)
    layout = [("tee_tcb_svn", 16), ("mr_seam", 48), ("mr_signer_seam", 48), ("seam_attributes", 8)]
    layout += [("td_attributes", 8), ("xfam", 8), ("mr_td", 48), ("mr_config_id", 48), ("mr_owner", 48)]
    layout += [("mr_owner_config", 48), *((f"rt_mr{number}", 48) for number in range(4)), ("report_data", 64)]
    for field, size in layout:
        if field != "seam_attributes":
            assert getattr(claims, field) == body[:size], field
        body = body[size:]


@pytest.mark.parametrize(
    "recipe",
    [
        SGX,
        replace(SGX, platform_instance_id=None),
        TDX,
        replace(TDX, version=5),
        replace(TDX, version=5, td_body="1.5"),
        replace(TDX, version=5, td_body="1.5ex"),
    ],
)
def test_evidence_of_our_own_making_is_what_the_recipe_says(recipe):
    made = build(replace(recipe, report_data=bytes(range(64)), tcb_eval=21, qe_eval=19))
    claims = authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root)
    assert claims.tee == recipe.tee
    assert claims.report_data == bytes(range(64))
    if isinstance(claims, SgxClaims):
        assert (claims.isv_prod_id, claims.isv_svn, claims.mr_enclave) == (7, 3, recipe.mr_enclave)
    else:
        assert (claims.mr_td, claims.rt_mr3) == (recipe.mr_td, b"\xa3" * 48)
    tcb = claims.tcb
    assert (tcb.status, tcb.eval_number, tcb.fmspc, tcb.ppid) == ("UpToDate", 19, recipe.fmspc, recipe.ppid)
    assert (tcb.cpu_svn, tcb.pce_svn, tcb.platform_instance_id) == (b"\x06" * 16, 11, recipe.platform_instance_id)
    assert recipe.root_crl_span[0] < tcb.collateral_issued  # the root's CRL comes once a year: it is not what ages
    assert tcb.collateral_issued == min(recipe.tcb_span[0], recipe.qe_span[0], recipe.pck_crl_span[0])
    assert tcb.collateral_expires == recipe.tcb_span[1]


def test_status_and_advisories_are_the_worse_of_platform_and_quoting_enclave():
    made = build(replace(SGX, pce_svn=7, qe_svn=7))
    tcb = authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root).tcb
    assert (tcb.status, tcb.advisories, tcb.qe_isv_svn) == ("OutOfDate", ("INTEL-SA-1", "INTEL-SA-2"), 7)


@pytest.mark.parametrize("recipe", [SGX, TDX, replace(TDX, version=5, td_body="1.5ex")])
def test_a_quote_ends_where_its_parts_end(recipe):
    made = build(recipe)

    def refused(quote: bytes, said: str) -> None:
        with pytest.raises(EvidenceError, match=said):
            authenticate(quote, collateral=made.collateral, now=NOW, root=made.root)

    refused(made.quote + b"\0", "1 bytes behind its end")
    at = parts(recipe)["body"].end
    size = len(made.quote) - at - 4
    refused(made.quote[:at] + (size + 1).to_bytes(4, "little") + made.quote[at + 4 :] + b"\0", "behind its end")
    refused(b"", "ends in the middle")
    refused(bytes(QUOTE_BYTES + 1), "over the limit")
    for end in range(0, len(made.quote), 97):
        refused(made.quote[:end], "ends in the middle")


@pytest.mark.parametrize(
    ("recipe", "at", "value", "said"),
    [
        (SGX, 0, 4, "version 4, TEE type 0x0"),
        (TDX, 0, 3, "version 3, TEE type 0x81"),
        (SGX, 2, 3, "key of type 3"),
        (replace(TDX, version=5), 48, 3, "a body of type 3 and 584 bytes"),
        (replace(TDX, version=5), 48, 1, "a body of type 1"),
        (TDX, parts(TDX)["attestation key"].end, 5, "type 5 where type 6"),
        (SGX, parts(SGX)["QE authentication data"].end, 3, "type 3 where type 5"),
    ],
)
def test_forms_of_quotes_that_are_not_read_are_refused_by_name(recipe, at, value, said):
    made = build(recipe)
    quote = made.quote[:at] + value.to_bytes(2, "little") + made.quote[at + 2 :]
    with pytest.raises(EvidenceError, match=said):
        authenticate(quote, collateral=made.collateral, now=NOW, root=made.root)


@pytest.mark.parametrize("part", ["signature", "attestation key", "body"])
def test_a_quote_checks_its_own_signature(part):
    quote, at = build(SGX).quote, parts(SGX)[part].start
    Quote.parse(quote).check_signature()
    for changed in (quote[at] ^ 1, quote[at] ^ 0x80):
        with pytest.raises(NotGenuineError):
            Quote.parse(quote[:at] + bytes([changed]) + quote[at + 1 :]).check_signature()


@pytest.mark.parametrize("numbers", [bytes(64), b"\xff" * 64])
def test_absurd_signatures_and_keys_are_refused(numbers):
    read = Quote.parse(build(SGX).quote)
    for changed in (replace(read, signature=numbers), replace(read, attestation_key=numbers)):
        with pytest.raises(NotGenuineError):
            changed.check_signature()


class PanicException(BaseException):
    """As pyo3 raises what Rust calls a panic."""

    __module__ = "pyo3_runtime"


@pytest.mark.parametrize(
    ("raised", "seen"), [(PanicException, NotGenuineError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_a_panic_is_a_refusal_and_an_interruption_is_none(monkeypatch, raised, seen):
    class Verifier:
        def __init__(self, root: bytes | None) -> None:
            raise raised

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Verifier)
    made = build(SGX)
    with pytest.raises(seen):
        authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root)


@pytest.mark.parametrize("told", ["{}", '{"tcb": 1}', "[]", "no JSON"])
def test_what_dcap_qvl_tells_in_another_form_is_refused(monkeypatch, told):
    class Claims:
        def to_json(self) -> str:
            return told

    class Verifier:
        def __init__(self, root: bytes | None) -> None: ...

        def verify_with_policy(self, *_: object) -> Claims:
            return Claims()

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Verifier)
    made = build(SGX)
    with pytest.raises(AttestationError, match="not understood"):
        authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root)


def test_a_status_that_is_not_known_here_is_not_passed_on(monkeypatch):
    monkeypatch.setattr(sgx_and_tdx, "STATUSES", ("SWHardeningNeeded",))
    made = build(SGX)
    with pytest.raises(UnacceptableError, match="'UpToDate', which is not known"):
        authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root)


def test_the_generator_makes_the_same_bytes_again():
    first = build(TDX)
    build.cache_clear()
    assert build(TDX) == first
