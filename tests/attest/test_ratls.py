"""RA-TLS certificates: genuine ones are read in both forms, and nothing in them can be exchanged."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.attest import der
from cloister.attest.dcap.quote import Quote
from cloister.attest.ratls import CERTIFICATE_BYTES, unwrap
from cloister.errors import EvidenceError, NotGenuineError
from tests.attest.genuine import needs_vectors, ratls
from tests.vectors.attest.make_dcap import SGX, TDX, Recipe, build

GRAMINE, CONTAINERS = "ccc-gramine-cert", "ccc-rats-tls-cert"
LEGACY, DICE = "060b06092a864886f84d8a3906", "0606678105050409"
SHA256, SHA384, SHA512 = ("06082a8648ce3d04030" + digit for digit in "234")
KEY = ec.derive_private_key(1 << 200 | 77, ec.SECP384R1())
OTHER = ec.derive_private_key(1 << 200 | 78, ec.SECP384R1())


def element(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content).to_bytes(4).lstrip(b"\0")
    return bytes([tag]) + (bytes([len(content)]) if len(content) < 0x80 else bytes([0x80 | len(size)]) + size) + content


def spki(key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def quote_about(data: bytes, recipe: Recipe = SGX) -> bytes:
    return build(replace(recipe, report_data=hashlib.sha256(data).digest() + bytes(32))).quote


def legacy(key: bytes, recipe: Recipe = SGX) -> tuple[str, bytes]:
    return LEGACY, quote_about(key, recipe)


def dice(
    key: bytes, recipe: Recipe = SGX, *, claims: bytes | None = None, tag: int = 60000, **more: Any
) -> tuple[str, bytes]:
    told = {"pubkey-hash": cbor2.dumps([1, hashlib.sha256(key).digest()]), **more}
    claims = cbor2.dumps(told) if claims is None else claims
    return DICE, cbor2.dumps(cbor2.CBORTag(tag, [quote_about(claims, recipe), claims]))


def certificate(
    *extensions: tuple[str, bytes],
    algorithm: str = SHA256,
    inner: str | None = None,
    parameters: bytes = b"",
    key: bytes | None = None,
    signer: ec.EllipticCurvePrivateKey = KEY,
) -> bytes:
    kind = {SHA256: hashes.SHA256(), SHA384: hashes.SHA384(), SHA512: hashes.SHA512()}.get(algorithm, hashes.SHA256())
    identifiers = [element(0x30, bytes.fromhex(one), parameters) for one in (inner or algorithm, algorithm)]
    name = element(0x30)
    dates = element(0x30, element(0x17, b"010101000000Z"), element(0x17, b"301231235959Z"))
    wrapped = [element(0x30, bytes.fromhex(oid), element(0x04, value)) for oid, value in extensions]
    signed = element(
        0x30,
        bytes.fromhex("a003020102"),
        element(0x02, b"\x01"),
        identifiers[0],
        name,
        dates,
        name,
        spki() if key is None else key,
        element(0xA3, element(0x30, *wrapped)),
    )
    signature = signer.sign(signed, ec.ECDSA(kind))
    return element(0x30, signed, identifiers[1], element(0x03, b"\0", signature))


@needs_vectors
@pytest.mark.parametrize(("name", "extensions"), [(GRAMINE, ("gramine", "dice")), (CONTAINERS, ("dice",))])
def test_genuine_certificates_hold_a_quote_about_their_key(name, extensions):
    found = unwrap(ratls(name))
    assert found.extensions == extensions
    assert found.spki in ratls(name)
    assert found.quote in ratls(name)
    assert Quote.parse(found.quote).tee == "sgx"


@pytest.mark.slow
@needs_vectors
@pytest.mark.parametrize("name", [GRAMINE, CONTAINERS])
def test_whatever_is_changed_in_a_genuine_certificate_is_noticed(name):
    """All of it is signed by its own key, but for the signature's second form, which no single flip gives."""
    data = ratls(name)
    ends = set()
    for at in range(0, len(data), 13):
        with pytest.raises((EvidenceError, NotGenuineError)) as fault:
            unwrap(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        ends.add(fault.type)
    assert ends == {EvidenceError, NotGenuineError}


@pytest.mark.slow
@needs_vectors
@pytest.mark.parametrize("name", [GRAMINE, CONTAINERS])
def test_random_mutants_of_genuine_certificates_are_refused(name):
    data, rng = ratls(name), random.Random(7)
    for _ in range(500):
        at, count = rng.randrange(len(data)), rng.randint(1, 64)
        mutants = (data[:at], data[:at] + data[at + count :], data[:at] + rng.randbytes(count) + data[at + count :])
        with pytest.raises((EvidenceError, NotGenuineError)):
            unwrap(rng.choice(mutants))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [SHA256, SHA384, SHA512])
@pytest.mark.parametrize("parameters", [b"", b"\x05\x00"])
@pytest.mark.parametrize("recipe", [SGX, TDX, replace(TDX, version=5, td_body="1.5ex")])
def test_both_forms_and_both_ways_to_write_the_algorithm(algorithm, parameters, recipe):
    old, new = legacy(spki(), recipe), dice(spki(), recipe, nonce=b"x")
    for extensions, names in (((old,), ("gramine",)), ((new,), ("dice",)), ((old, new), ("gramine", "dice"))):
        found = unwrap(certificate(*extensions, algorithm=algorithm, parameters=parameters))
        assert (found.extensions, found.spki) == (names, spki())
        assert found.quote in extensions[-1][1]


@pytest.mark.parametrize(
    "extensions",
    [
        [legacy(spki(OTHER))],
        [dice(spki(OTHER))],
        [legacy(spki()), dice(spki(OTHER))],
        [legacy(spki(OTHER)), dice(spki())],
        [(DICE, cbor2.dumps(cbor2.CBORTag(60000, [legacy(spki())[1], cbor2.loads(dice(spki())[1]).value[1]])))],
        [(LEGACY, build(replace(SGX, report_data=hashlib.sha256(spki()).digest() * 2)).quote)],
        [dice(spki(), claims=cbor2.dumps({"pubkey-hash": cbor2.dumps([8, hashlib.sha256(spki()).digest()])}))],
        [dice(spki(), claims=cbor2.dumps({"pubkey-hash": cbor2.dumps(hashlib.sha256(spki()).digest())}))],
    ],
    ids=["older", "newer", "newer of two", "older of two", "other claims", "no zeros", "other hash", "no list"],
)
def test_a_quote_about_another_key_is_refused(extensions):
    with pytest.raises(NotGenuineError, match="another key"):
        unwrap(certificate(*extensions))


def test_a_certificate_is_signed_by_its_own_key():
    for wrong in (certificate(legacy(spki()), signer=OTHER), certificate(legacy(spki()), inner=SHA384)):
        with pytest.raises(NotGenuineError, match="not signed by its own key"):
            unwrap(wrong)


def test_keys_and_algorithms_that_are_not_read_are_refused():
    plain = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    edwards = plain.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for wrong, said in (
        (certificate(legacy(edwards), key=edwards), "not on an elliptic curve"),
        (certificate(legacy(spki()), key=element(0x30)), "key cannot be read"),
        (certificate(legacy(spki()), algorithm="06092a864886f70d01010b"), "not signed with ECDSA"),
        (certificate(legacy(spki()), parameters=b"\x05\x00\x05\x00"), "not signed with ECDSA"),
    ):
        with pytest.raises(EvidenceError, match=said):
            unwrap(wrong)


@pytest.mark.parametrize(
    ("extensions", "said"),
    [
        ([], "without a quote"),
        ([("0603551d13", b"\x30\x00")], "without a quote"),
        ([legacy(spki()), legacy(spki())], "twice"),
        ([(LEGACY, b"")], "ends in the middle"),
        ([(LEGACY, legacy(spki())[1] + b"\0")], "behind its end"),
        ([(DICE, dice(spki())[1] + b"\0")], "behind its end"),
        ([dice(spki(), tag=60001)], "not a quote with claims"),
        ([(DICE, cbor2.dumps([b"", b""]))], "not a quote with claims"),
        ([(DICE, cbor2.dumps(cbor2.CBORTag(60000, [b"", b"", b""])))], "not a quote with claims"),
        ([(DICE, cbor2.dumps(cbor2.CBORTag(60000, ["", b""])))], "not a quote with claims"),
        ([(DICE, b"\x9f" * 5000)], "not CBOR"),
        ([(DICE, b"")], "not CBOR"),
        ([dice(spki(), claims=b"\xa0")], "no 'pubkey-hash'"),
        ([dice(spki(), claims=b"\x80")], "no 'pubkey-hash'"),
        ([dice(spki(), claims=b"\xa1\x6bpubkey-hash\x01")], "no 'pubkey-hash'"),
        ([dice(spki(), claims=b"\xa1\x6bpubkey-hash\x41\x1c")], "not CBOR"),
        ([dice(spki(), claims=b"\xa2\x61a\x01\x61a\x02")], "not CBOR"),
    ],
)
def test_certificates_that_hold_no_evidence_are_refused(extensions, said):
    with pytest.raises(EvidenceError, match=said):
        unwrap(certificate(*extensions))


def test_what_is_no_certificate_is_refused():
    good = certificate(legacy(spki()))
    for wrong in (b"", b"\x30\x00", good + b"\0", bytes(CERTIFICATE_BYTES + 1), element(0x30, b"", b""), good[4:]):
        with pytest.raises(EvidenceError):
            unwrap(wrong)
    signed, algorithm, signature = (one.encoded for one in der.read(good, der.SEQUENCE).children())
    first_eight = der.read(signed, der.SEQUENCE).children()
    for fields in (first_eight[:7], [*first_eight, first_eight[0]]):
        with pytest.raises(EvidenceError, match="version 3 with extensions"):
            unwrap(element(0x30, element(0x30, *(one.encoded for one in fields)), algorithm, signature))
