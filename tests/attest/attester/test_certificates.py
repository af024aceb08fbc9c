"""The certificate table of an untrusted host."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.attester.certificates import CERTIFICATE_BYTES, endorsements
from cloister.errors import NoTeeError
from tests.attest.tsmfs import certificate_table, snp_report

# As hosts write them: the bytes in the order of the printed GUID.
VCEK = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
VLEK = bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1")
ASK = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782")
ARK = bytes.fromhex("c0b406a4a80349529743 3fb6014cd0ae")
CRL = bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea")
BY_VCEK, BY_VLEK = snp_report(bytes(64)), snp_report(bytes(64), signer=1)


@pytest.mark.parametrize(("report", "vek"), [(BY_VCEK, b"vcek"), (BY_VLEK, b"vlek")])
def test_the_signers_certificate_comes_first_whatever_the_order_of_the_table(report, vek):
    table = certificate_table((ARK, b"ark"), (CRL, b"crl"), (VLEK, b"vlek"), (ASK, b"ask"), (VCEK, b"vcek"))
    assert endorsements(table, report=report) == (vek, b"ask", b"ark")


def test_what_the_host_does_not_have_is_left_out():
    assert endorsements(certificate_table((VLEK, b"vlek"), (ASK, b"ask")), report=BY_VLEK) == (b"vlek", b"ask")
    assert endorsements(certificate_table((VCEK, b"vcek")), report=BY_VCEK) == (b"vcek",)
    assert endorsements(certificate_table((VCEK, b"vcek")), report=BY_VLEK) == ()


@pytest.mark.parametrize("table", [b"", bytes(24), bytes(4096)])
def test_a_host_that_hands_out_none(table):
    assert endorsements(table, report=BY_VCEK) == ()


def test_a_certificate_for_something_else_may_have_any_length():
    table = certificate_table((CRL, bytes(CERTIFICATE_BYTES + 1)), (bytes([1] * 16), b""), (ASK, b"ask"))
    assert endorsements(table, report=BY_VCEK) == (b"ask",)


def row(guid: bytes, offset: int, length: int) -> bytes:
    return guid + struct.pack("<II", offset, length)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"\1", "no end"),
        (row(VCEK, 24, 1) + b"x", "no end"),
        (row(VCEK, 48, 2) + bytes(24) + b"x", "beyond its end"),
        (row(VCEK, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24), "beyond its end"),
        (row(CRL, 0xFFFFFFFF, 1) + bytes(24), "beyond its end"),
        (row(ASK, 72, 1) * 2 + bytes(24) + b"x", "twice"),
        (row(ASK, 24, 0) + bytes(24), "0 bytes"),
        (certificate_table((ARK, bytes(CERTIFICATE_BYTES + 1))), "8193 bytes"),
    ],
)
def test_a_broken_table_is_refused(table, why):
    with pytest.raises(NoTeeError, match=why):
        endorsements(table, report=BY_VCEK)


@given(st.binary(max_size=200), st.sampled_from([VCEK, VLEK, ASK, ARK, bytes(16)]))
def test_noise_is_refused_or_read(noise, guid):
    try:
        found = endorsements(guid + noise, report=BY_VCEK)
    except NoTeeError:
        return
    assert all(certificate in guid + noise for certificate in found)
