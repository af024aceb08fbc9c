"""Bundles of collateral: genuine ones come through unchanged, and anything else is refused with one kind of error."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.dcap.collateral import BUNDLE_BYTES, Collateral, DcapCollateral, SnpCollateral, parse_bundle
from cloister.errors import CollateralError
from tests.attest.genuine import dcap, dcap_names, needs_vectors

DCAP = {
    "pck_crl_issuer_chain": "chain",
    "root_ca_crl": "00ff",
    "pck_crl": "01",
    "tcb_info_issuer_chain": "chain",
    "tcb_info": '{"a":1}',
    "tcb_info_signature": "02",
    "qe_identity_issuer_chain": "chain",
    "qe_identity": '{"b":"\u00e4"}',
    "qe_identity_signature": "03",
}
SNP = {name: b64encode(name.encode()).decode() for name in ("vek", "ask", "ark", "crl")}

chunks = st.binary(min_size=1, max_size=100)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
bundles: st.SearchStrategy[Collateral] = st.one_of(
    st.builds(
        DcapCollateral,
        **{name: chunks if name in ("root_ca_crl", "pck_crl") or "signature" in name else texts for name in DCAP},
    ),
    st.tuples(*[st.none() | chunks] * 4)
    .filter(any)
    .map(lambda found: SnpCollateral(**dict(zip(SNP, found, strict=True)))),
)


@needs_vectors
@pytest.mark.parametrize("name", dcap_names())
def test_genuine_collateral(name: str) -> None:
    data = dcap(name).collateral_json
    collateral = parse_bundle(data)
    assert isinstance(collateral, DcapCollateral)
    assert json.loads(collateral.encode()) == json.loads(data)  # the signed texts byte by byte
    assert DcapCollateral.parse(collateral.encode()) == collateral


@given(bundles)
def test_what_is_written_is_read(collateral: Collateral) -> None:
    assert parse_bundle(collateral.encode()) == collateral == type(collateral).parse(collateral.encode())


def test_null_and_absent_are_the_same() -> None:
    assert parse_bundle(b'{"crl": "YQ=="}') == SnpCollateral(vek=None, ask=None, ark=None, crl=b"a")


def edited(base: dict[str, str], **changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**base, **changes}.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"", "no JSON", id="nothing"),
        pytest.param(b"\xff\xfe", "no JSON", id="no text"),
        pytest.param(b'{"a":', "no JSON", id="cut off"),
        pytest.param(b"[" * 100_000, "no JSON", id="lists without end"),
        pytest.param(b'{"a":' * 100_000, "no JSON", id="tables without end"),
        pytest.param(b'{"crl": ' + b"9" * 10_000 + b"}", "no JSON", id="a number of 10,000 digits"),
        pytest.param(b"[]", "not a JSON object", id="a list"),
        pytest.param(b'"crl"', "not a JSON object", id="a text"),
        pytest.param(b" " * (BUNDLE_BYTES + 1), "over the limit", id="huge"),
        pytest.param(b"{}", "partial", id="empty"),
        pytest.param(b'{"crl": null}', "partial", id="nothing in it"),
        pytest.param(b'{"crl": "YQ==", "crl": "YQ=="}', "twice", id="a field twice"),
        pytest.param(edited(DCAP, tcb_info=...), "partial: tcb_info is missing", id="partial"),
        pytest.param(edited(DCAP, more="x"), "no meaning", id="a field more"),
        pytest.param(edited(DCAP, crl="YQ=="), "no meaning", id="of both makers"),
        pytest.param(edited(DCAP, tcb_info={"a": 1}), "tcb_info is not a text", id="not a text"),
        pytest.param(edited(DCAP, tcb_info=None), "tcb_info is not a text", id="null"),
        pytest.param(edited(DCAP, tcb_info=""), "tcb_info is not a text", id="an empty text"),
        pytest.param(edited(DCAP, tcb_info="\ud800"), "not encoded", id="half a character"),
        pytest.param(edited(DCAP, pck_crl="0"), "not encoded", id="half a byte"),
        pytest.param(edited(DCAP, pck_crl="0 0"), "not encoded", id="spaces in hexadecimal"),
        pytest.param(edited(DCAP, pck_crl="\u0661\u0661"), "not encoded", id="digits of another script"),
        pytest.param(edited(SNP, more="x"), "partial", id="nobody's field"),
        pytest.param(edited(SNP, ark="YQ"), "not encoded", id="base64 cut off"),
        pytest.param(edited(SNP, ark="Y Q=="), "not encoded", id="spaces in base64"),
        pytest.param(edited(SNP, ark="===="), "not encoded", id="padding alone"),
        pytest.param(edited(SNP, ark=7), "ark is not a text", id="a number"),
    ],
)
def test_bad_bundles(data: bytes, text: str) -> None:
    with pytest.raises(CollateralError, match=text):
        parse_bundle(data)


def test_the_other_makers_bundle() -> None:
    with pytest.raises(CollateralError):
        DcapCollateral.parse(edited(SNP))
    with pytest.raises(CollateralError):
        SnpCollateral.parse(edited(DCAP))


@pytest.mark.slow
@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode))
def test_garbage(data: bytes) -> None:
    with pytest.raises(CollateralError):
        parse_bundle(data)
