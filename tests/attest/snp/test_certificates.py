"""Certificates and CRLs in other forms than AMD's are refused with their own error, whatever a signature might say."""

from __future__ import annotations

import pytest

from cloister.attest.snp.certificates import Certificate, RevocationList, Signed
from cloister.errors import EvidenceError, NotGenuineError
from tests.vectors.attest import make_snp as make
from tests.vectors.attest.make_snp import BEGIN, END, PSS, Extension, moment, name, tlv, whole

SHORT_PSS = bytes.fromhex("3041") + PSS[2:13] + bytes.fromhex("3034") + PSS[15:-5]
"""The same algorithm, without the trailer field's default."""

COMMON = tlv(0x30, b"\x06\x03\x55\x04\x03", tlv(0x0C, b"SEV-VCEK"))
COUNTRY = tlv(0x30, b"\x06\x03\x55\x04\x06", tlv(0x13, b"US"))
NUMBER = Extension(b"\x55\x1d\x14", whole(7))


def envelope(*fields: bytes, algorithm: bytes = PSS, signature: bytes = tlv(0x03, b"\0sig")) -> bytes:
    return tlv(0x30, tlv(0x30, *fields), algorithm, signature)


def certificate(**other: bytes) -> bytes:
    fields = {
        "version": tlv(0xA0, whole(2)),
        "serial": whole(0),
        "algorithm": PSS,
        "issuer": name("SEV-Milan"),
        "validity": tlv(0x30, moment(BEGIN), moment(END)),
        "subject": name("SEV-VCEK"),
        "spki": tlv(0x30),
        "extensions": tlv(0xA3, make.extension_list((NUMBER,))),
    }
    return envelope(*{**fields, **other}.values())


def crl(**other: bytes) -> bytes:
    fields = {
        "version": whole(1),
        "algorithm": PSS,
        "issuer": name("ARK-Milan"),
        "this_update": moment(BEGIN),
        "next_update": moment(END),
        "revoked": tlv(0x30, tlv(0x30, whole(5), moment(BEGIN))),
        "extensions": tlv(0xA0, make.extension_list((NUMBER,))),
    }
    return envelope(*{**fields, **other}.values())


def extensions(*entries: bytes, tag: int = 0xA3) -> bytes:
    return tlv(tag, tlv(0x30, *entries))


def test_the_forms_that_amd_writes():
    read = Certificate.parse(certificate())
    assert (read.subject, read.issuer, read.serial) == ("SEV-VCEK", "SEV-Milan", 0)
    assert (read.not_before, read.not_after, read.spki) == (BEGIN, END, b"\x30\x00")
    assert read.extensions == {"2.5.29.20": (False, whole(7))}
    assert read.signed.signature == b"sig"
    assert not read.is_ca
    assert not read.signs_crls
    assert Certificate.parse(certificate(algorithm=SHORT_PSS)).subject == "SEV-VCEK"


def test_a_list_with_or_without_what_is_optional():
    full = RevocationList.parse(crl())
    assert (full.issuer, full.this_update, full.next_update) == ("ARK-Milan", BEGIN, END)
    assert full.revoked == {5}
    assert RevocationList.parse(crl(version=b"", extensions=b"")).revoked == {5}
    assert RevocationList.parse(crl(revoked=b"")).revoked == frozenset()
    reason = tlv(0x30, tlv(0x30, b"\x06\x03\x55\x1d\x15", tlv(0x04, b"\x0a\x01\x01")))
    assert RevocationList.parse(crl(revoked=tlv(0x30, tlv(0x30, whole(9), moment(BEGIN), reason)))).revoked == {9}


@pytest.mark.parametrize(
    "other",
    [
        {"version": b""},
        {"version": tlv(0xA0, whole(1))},
        {"version": b"", "more": tlv(0x30)},
        {"more": tlv(0x81, b"\0")},
        {"extensions": b""},
        {"extensions": tlv(0xA0, tlv(0x30))},
        {"extensions": tlv(0xA3)},
        {"extensions": tlv(0xA3, tlv(0x30), tlv(0x30))},
        {"extensions": extensions(tlv(0x30))},
        {"extensions": extensions(tlv(0x30, b"\x06\x01\x2a"))},
        {"extensions": extensions(tlv(0x30, b"\x06\x01\x2a", b"\x01\x01\x00", tlv(0x04)))},
        {"extensions": extensions(tlv(0x30, b"\x06\x01\x2a", b"\x01\x01\xff", tlv(0x04), tlv(0x04)))},
        {"extensions": extensions(tlv(0x30, b"\x06\x01\x2a", tlv(0x03, b"\0")))},
        {"validity": tlv(0x30, moment(BEGIN))},
        {"validity": tlv(0x30, moment(BEGIN), moment(END), moment(END))},
        {"validity": tlv(0x30)},
        {"serial": tlv(0x02, b"\xff")},
        {"serial": tlv(0x02)},
        {"spki": tlv(0x04)},
        {"algorithm": make.RSA_SHA256},
        {"subject": tlv(0x30)},
        {"subject": tlv(0x30, tlv(0x31, COUNTRY))},
        {"subject": tlv(0x30, tlv(0x31, COMMON), tlv(0x31, COMMON))},
        {"subject": tlv(0x30, tlv(0x31, COMMON, COMMON))},
        {"subject": tlv(0x30, tlv(0x31, tlv(0x30)))},
        {"subject": tlv(0x30, tlv(0x31, tlv(0x30, b"\x06\x03\x55\x04\x03")))},
        {"subject": tlv(0x30, tlv(0x31, COMMON, tlv(0x30, *([b"\x06\x01\x2a"] * 3))))},
        {"subject": tlv(0x31, tlv(0x31, COMMON))},
    ],
)
def test_what_is_no_certificate_of_amds(other):
    with pytest.raises(EvidenceError):
        Certificate.parse(certificate(**other))


@pytest.mark.parametrize(
    "other",
    [
        {"version": whole(0)},
        {"version": whole(2)},
        {"algorithm": make.RSA_SHA256},
        {"next_update": b""},
        {"next_update": b"", "revoked": b""},
        {"this_update": b"", "next_update": b"", "revoked": b"", "issuer": b""},
        {"version": b"", "algorithm": b"", "issuer": b"", "this_update": b"", "next_update": b"", "revoked": b""},
        {"extensions": b"", "more": tlv(0x30), "yet_more": tlv(0x30)},
        {"extensions": tlv(0xA0, make.extension_list((NUMBER, NUMBER)))},
        {"extensions": tlv(0xA0, make.extension_list((NUMBER._replace(critical=True),)))},
        {"revoked": tlv(0x30, tlv(0x30, whole(5)))},
        {"revoked": tlv(0x30, tlv(0x30))},
        {"revoked": tlv(0x30, whole(5))},
        {"revoked": tlv(0x30, tlv(0x30, whole(5), moment(BEGIN), tlv(0x30), tlv(0x30)))},
        {"revoked": tlv(0x30, tlv(0x30, whole(5), whole(5)))},
        {
            # certificateIssuer: the entry is about a certificate of someone else's (RFC 5280, 5.3.3)
            "revoked": tlv(
                0x30,
                tlv(
                    0x30,
                    whole(5),
                    moment(BEGIN),
                    tlv(0x30, tlv(0x30, b"\x06\x03\x55\x1d\x1d", b"\x01\x01\xff", tlv(0x04))),
                ),
            )
        },
    ],
)
def test_what_is_no_list_of_amds(other):
    with pytest.raises(EvidenceError):
        RevocationList.parse(crl(**other))


@pytest.mark.parametrize("kind", [Certificate, RevocationList])
@pytest.mark.parametrize(
    "data",
    [
        tlv(0x30),
        tlv(0x30, tlv(0x30), PSS),
        tlv(0x30, tlv(0x30), PSS, tlv(0x03, b"\0"), tlv(0x03, b"\0")),
        envelope(),
        envelope(signature=tlv(0x03)),
        envelope(signature=tlv(0x03, b"\1s")),
        envelope(signature=tlv(0x04, b"\0s")),
        envelope(algorithm=make.RSA_SHA256),
        tlv(0x30, tlv(0x04), PSS, tlv(0x03, b"\0")),
    ],
)
def test_what_is_signed_by_no_one(kind, data):
    with pytest.raises(EvidenceError):
        kind.parse(data)


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        (b"\x30\x00", make.CERT_SIGN.value),
        (bytes.fromhex("3003010100"), make.CERT_SIGN.value),
        (make.CA.value, tlv(0x03)),
        (make.CA.value, tlv(0x03, b"\0")),
        (make.CA.value, make.CRL_SIGN.value),
    ],
)
def test_what_makes_no_ca(value, usage):
    wrong = (make.CA._replace(value=value), make.CERT_SIGN._replace(value=usage))
    assert not Certificate.parse(certificate(extensions=tlv(0xA3, make.extension_list(wrong)))).is_ca


def test_a_signature_is_of_the_key_and_of_rsa():
    key = make.rsa_key("ARK-Milan")
    good = Certificate.parse(make.Platform().ark()).signed
    good.check(make.spki(key))
    for spki in (make.spki(make.rsa_key("impostor")), make.spki(make.ec_key("vcek")), b"", b"\x30\x00"):
        with pytest.raises(NotGenuineError):
            good.check(spki)
    with pytest.raises(NotGenuineError):
        Signed(good.tbs + b"\0", good.signature).check(make.spki(key))
