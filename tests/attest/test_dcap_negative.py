"""SGX and TDX evidence that no one publishes: each thing that can be wrong, one at a time, and how it is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cloister.attest.dcap import published
from cloister.attest.dcap.collateral import DcapCollateral
from cloister.attest.dcap.verify import authenticate
from cloister.errors import AttestationError, CollateralError, NotGenuineError, UnacceptableError
from tests.attest.genuine import dcap, needs_vectors
from tests.vectors.attest.make_dcap import DEBUG_ENCLAVE, NOW, SGX, TDX, Level, Made, Recipe, build, parts

BOTH = (SGX, TDX)
TDX15 = replace(TDX, version=5, td_body="1.5")
HOUR = timedelta(hours=1)
PAST, FUTURE = (NOW - 900 * HOUR, NOW - HOUR), (NOW + HOUR, NOW + 900 * HOUR)

NOT_GENUINE: dict[str, tuple[dict[str, Any], str]] = {
    "revoked PCK": ({"pck_revoked": True}, "PCK certificate was revoked"),
    "revoked CA": ({"ca_revoked": True}, "PCK's CA was revoked"),
    "expired PCK": ({"pck_valid": PAST}, "PCK certificate expired"),
    "PCK of the future": ({"pck_valid": FUTURE}, "PCK certificate is not valid before"),
    "wrong QE": ({"qe_signer": b"\x66" * 32}, "MRSIGNER"),
    "another enclave of Intel's": ({"qe_prod_id": 2}, "ISVPRODID"),
    "debug QE": ({"qe_attributes": b"\x13" + bytes(15)}, "debug enclave"),
    "QE with other attributes": ({"qe_attributes": b"\x01" + bytes(15)}, "ATTRIBUTES"),
    "QE with other MISCSELECT": ({"qe_misc_select": 1}, "MISCSELECT"),
    "QE of another vendor": ({"header_vendor": bytes(16)}, "vendor"),
}

COLLATERAL: dict[str, tuple[dict[str, Any], str]] = {
    "FMSPC mismatch": ({"tcb_fmspc": bytes(6)}, "FMSPC"),
    "pceId mismatch": ({"tcb_pce_id": b"\0\1"}, "pceId"),
    "QE identity of another TEE": ({"qe_id": "QVE"}, "QE identity is of another TEE"),
    "TCB info expired": ({"tcb_span": PAST}, "TCB info expired on 2030-06-15 11:00: fetch it again"),
    "TCB info not yet valid": ({"tcb_span": FUTURE}, "TCB info is not valid before 2030-06-15 13:00"),
    "QE identity expired": ({"qe_span": PAST}, "QE identity expired"),
    "QE identity not yet valid": ({"qe_span": FUTURE}, "QE identity is not valid before"),
    "root's CRL expired": ({"root_crl_span": PAST}, "root's CRL expired"),
    "root's CRL not yet valid": ({"root_crl_span": FUTURE}, "root's CRL is not valid before"),
    "PCK CA's CRL expired": ({"pck_crl_span": PAST}, "PCK CA's CRL expired"),
    "PCK CA's CRL not yet valid": ({"pck_crl_span": FUTURE}, "PCK CA's CRL is not valid before"),
    "root's CRL by another key": ({"root_crl_key": "mallory"}, "root did not sign it"),
    "PCK CA's CRL by another key": ({"pck_crl_key": "mallory"}, "another CA's, or not signed by it"),
    "TCB info by another key": ({"tcb_key": "mallory"}, "TCB info is not signed by Intel"),
    "QE identity by another key": ({"qe_key": "mallory"}, "QE identity is not signed by Intel"),
    "revoked TCB signer": ({"signer_revoked": True}, "signed the TCB info was revoked"),
    "QE identity without levels": ({"qe_levels": ()}, "no TCB levels"),
}

UNACCEPTABLE: dict[str, tuple[Recipe, str]] = {
    "debug enclave": (replace(SGX, attributes=DEBUG_ENCLAVE), "debug"),
    "TCB revoked": (replace(SGX, tcb_levels=(Level(status="Revoked"),)), "Revoked"),
    "TCB of a TD revoked": (replace(TDX, tcb_levels=(Level(status="Revoked"),)), "Revoked"),
    "QE revoked": (replace(SGX, qe_levels=(Level(svn=8, status="Revoked"),)), "Revoked"),
    "below every level": (replace(SGX, tcb_levels=(Level(svn=9),)), "below every level"),
    "one component below": (replace(SGX, cpu_svn=b"\6" * 15 + b"\0"), "below every level"),
    "one TDX component below": (replace(TDX, tee_tcb_svn=b"\5\0" + b"\5" * 13 + b"\0"), "below every level"),
    "PCE below": (replace(SGX, pce_svn=4), "below every level"),
    "old QE": (replace(SGX, qe_svn=5), "quoting enclave is older"),
    "old QE of a TD": (replace(TDX, qe_svn=5), "quoting enclave is older"),
    "debug TD": (replace(TDX, td_attributes=b"\x01\0\0\x10\0\0\0\0"), "debug"),
    "profiled TD": (replace(TDX, td_attributes=b"\x20\0\0\x10\0\0\0\0"), "profiled"),
    "migratable TD": (replace(TDX, td_attributes=b"\0\0\0\x30\0\0\0\0"), "migratable"),
    "TD without SEPT_VE_DISABLE": (replace(TDX, td_attributes=bytes(8)), "take away its memory"),
    "TD with unknown attributes": (replace(TDX, td_attributes=b"\x02\0\0\x10\0\0\0\0"), "not known here"),
    "TD with a service TD": (replace(TDX15, mr_service_td=b"\1" * 48), "service TD"),
    "another TDX module": (replace(TDX, seam_signer=b"\1" * 48), "TDX module"),
}


def judge(made: Made, **changes: Any) -> Any:
    made = made._replace(**changes)
    return authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root)


def forged(recipe: Recipe, part: str) -> bytes:
    """The recipe's quote with the lowest bit of that part's last byte changed."""
    quote, at = bytearray(build(recipe).quote), parts(recipe)[part].end - 1
    quote[at] ^= 1
    return bytes(quote)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
@pytest.mark.parametrize("case", NOT_GENUINE)
def test_what_no_genuine_tee_made(recipe, case):
    changes, said = NOT_GENUINE[case]
    with pytest.raises(NotGenuineError, match=said):
        judge(build(replace(recipe, **changes)))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
@pytest.mark.parametrize("case", COLLATERAL)
def test_what_the_collateral_cannot_decide(recipe, case):
    changes, said = COLLATERAL[case]
    with pytest.raises(CollateralError, match=said):
        judge(build(replace(recipe, **changes)))


@pytest.mark.slow
@pytest.mark.parametrize("case", UNACCEPTABLE)
def test_what_is_genuine_and_never_acceptable(case):
    recipe, said = UNACCEPTABLE[case]
    with pytest.raises(UnacceptableError) as fault:
        judge(build(recipe))
    assert [said in failure for failure in fault.value.failures] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("part", parts(SGX))
@pytest.mark.parametrize("case", [*UNACCEPTABLE, "nothing else wrong"])
def test_a_forged_quote_is_not_genuine_whatever_else_is_wrong_with_it(case, part):
    recipe = UNACCEPTABLE[case][0] if case in UNACCEPTABLE else SGX
    with pytest.raises(NotGenuineError):
        judge(build(recipe), quote=forged(recipe, part))


def test_one_tee_is_not_judged_by_the_tcb_info_of_the_other():
    for recipe, other in ((SGX, "TDX"), (TDX, "SGX")):
        with pytest.raises(CollateralError, match=f"not about {recipe.tee.upper()}"):
            judge(build(replace(recipe, tcb_type=other)))
        with pytest.raises(CollateralError):
            judge(build(recipe), collateral=build(SGX if recipe is TDX else TDX).collateral)


def test_a_platform_cannot_sign_its_own_tcb_info():
    """Its PCK leads to the root as well as the TCB signer's key does. Who extracts one key is up to date for ever."""
    with pytest.raises(CollateralError, match="not signed by Intel SGX TCB Signing"):
        judge(build(replace(SGX, signer="pck")))


def test_the_signers_name_alone_is_what_keeps_a_platform_from_signing_its_own_tcb_info(monkeypatch):
    monkeypatch.setattr(published, "_TCB_SIGNER", "Intel SGX PCK Certificate")
    assert judge(build(replace(SGX, signer="pck"))).tcb.status == "UpToDate"


@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
def test_another_root_vouches_for_nothing(recipe):
    made = build(recipe)
    elsewhere = build(replace(recipe, root="other root"))
    for root in (None, elsewhere.root):  # None is Intel's
        with pytest.raises(CollateralError):
            judge(made, root=root)
    with pytest.raises(NotGenuineError, match="PCK's CA is not signed by the one above it"):
        judge(made, quote=elsewhere.quote)


@pytest.mark.parametrize("chain", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_a_signer_of_the_right_name_under_another_root_signs_nothing(chain):
    made, elsewhere = build(SGX), build(replace(SGX, root="other root"))
    with pytest.raises(CollateralError, match="is not signed by the one above it"):
        judge(made, collateral=replace(made.collateral, **{chain: getattr(elsewhere.collateral, chain)}))


@needs_vectors
def test_evidence_of_our_own_making_is_not_intels():
    vector = dcap("sgx-v3-swhardening-2025")
    collateral = DcapCollateral.parse(vector.collateral_json)
    recipe = replace(SGX, fmspc=bytes.fromhex("00606a000000"), pck_valid=(vector.now - HOUR, vector.now + HOUR))
    with pytest.raises(NotGenuineError, match="PCK's CA is not signed"):
        authenticate(build(recipe).quote, collateral=collateral, now=vector.now)
    with pytest.raises(AttestationError):
        authenticate(vector.quote, collateral=collateral, now=vector.now, root=build(SGX).root)


BROKEN: dict[str, dict[str, Any]] = {
    "no JSON": {"tcb_info": "x"},
    "JSON of another shape": {"tcb_info": "[]"},
    "deep JSON": {"tcb_info": "[" * 100_000},
    "half a character": {"qe_identity": "\ud800"},
    "a date without its zone": {"tcb_info": build(SGX).collateral.tcb_info.replace("00Z", "00", 1)},
    "a date in words": {"qe_identity": build(SGX).collateral.qe_identity.replace("2030", "June", 1)},
    "no CRL": {"root_ca_crl": b""},
    "a CRL that ends early": {"pck_crl": build(SGX).collateral.pck_crl[:-1]},
    "no chain": {"tcb_info_issuer_chain": ""},
    "a chain in other words": {"qe_identity_issuer_chain": "x" + build(SGX).collateral.qe_identity_issuer_chain},
    "a chain of one": {"tcb_info_issuer_chain": build(SGX).collateral.tcb_info_issuer_chain[:900]},
    "a chain of three": {"tcb_info_issuer_chain": build(SGX).collateral.tcb_info_issuer_chain * 2},
    "a chain of no certificates": {
        "tcb_info_issuer_chain": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 2
    },
    "a short signature": {"tcb_info_signature": b"\1" * 16},
    "a long signature": {"qe_identity_signature": build(SGX).collateral.qe_identity_signature + b"\1"},
    "no signature": {"qe_identity_signature": b""},
}


@pytest.mark.parametrize("case", BROKEN)
def test_collateral_that_cannot_be_read(case):
    made = build(SGX)
    with pytest.raises(CollateralError):
        judge(made, collateral=replace(made.collateral, **BROKEN[case]))
