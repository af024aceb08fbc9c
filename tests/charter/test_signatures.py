"""Signatures of charters: who can make one, what one is good for, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from cloister.charter.signatures import CONTEXT, FILE_BYTES, check_signed, decode, encode, sign, verify
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.wire.peers import fingerprint
from tests.support.charters import charter, fingerprint_of, key_of, signatures, text

AGREED = charter()
BOB, ALICE = signatures(AGREED, "bob", "alice")


@pytest.mark.parametrize("signature", [BOB, ALICE], ids=["Ed25519", "P-256"])
def test_a_signature_tells_its_signer(signature) -> None:
    signer = verify(signature, charter=AGREED)
    assert signer.key == signature.key
    assert verify(decode(encode(signature)), charter=AGREED) == signer


def test_what_is_signed_is_the_context_and_the_digest() -> None:
    key = key_of("bob")
    assert isinstance(key, Ed25519PrivateKey)
    assert BOB.signature == key.sign(b"cloister charter signature 1\0" + AGREED.digest)
    assert CONTEXT.endswith(b"\0")


def test_a_stranger_cannot_sign() -> None:
    with pytest.raises(CharterError, match="no member's"):
        sign(AGREED, key=key_of("mallory"))


def test_a_key_of_another_kind_cannot_sign() -> None:
    key = generate_private_key(SECP384R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    named = parse_charter(text().replace(fingerprint_of("bob"), fingerprint(spki)))
    with pytest.raises(CharterError, match="Ed25519 or P-256"):
        sign(named, key=key)
    with pytest.raises(CharterError, match="not valid"):
        verify(replace(BOB, charter=named.digest, key=fingerprint(spki), public_key=spki), charter=named)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"charter": bytes(32)}, "for another charter"),
        ({"key": fingerprint_of("mallory")}, "no member"),
        ({"key": fingerprint_of("alice")}, "another public key"),
        ({"public_key": ALICE.public_key}, "another public key"),
        ({"signature": ALICE.signature}, "not valid"),
        ({"signature": b""}, "not valid"),
        ({"key": ALICE.key, "public_key": ALICE.public_key}, "not valid"),
    ],
)
def test_what_does_not_stand(changed, why: str) -> None:
    with pytest.raises(CharterError, match=why):
        verify(replace(BOB, **changed), charter=AGREED)


@given(at=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_flipped_bit_stands(at: int, bit: int) -> None:
    flipped = bytearray(BOB.signature)
    flipped[at] ^= 1 << bit
    with pytest.raises(CharterError, match="not valid"):
        verify(replace(BOB, signature=bytes(flipped)), charter=AGREED)


def test_all_owners_and_oneself_have_to_have_signed() -> None:
    check_signed(AGREED, signatures=signatures(AGREED))
    check_signed(AGREED, signatures=signatures(AGREED), own=fingerprint_of("bob"))
    with pytest.raises(CharterError, match=r"not signed by chuck: `cloister charter sign`"):
        check_signed(AGREED, signatures=signatures(AGREED, "bob", "alice"))
    with pytest.raises(CharterError, match="not signed by rosa"):
        check_signed(AGREED, signatures=signatures(AGREED), own=fingerprint_of("rosa"))
    check_signed(AGREED, signatures=signatures(AGREED, "bob", "alice", "chuck", "rosa"), own=fingerprint_of("rosa"))
    with pytest.raises(CharterError, match="no member's"):
        check_signed(AGREED, signatures=signatures(AGREED), own=fingerprint_of("mallory"))


WRITTEN = encode(BOB)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "= 1",
        WRITTEN + 'note = "hello"\n',
        WRITTEN.replace("signature 1", "signature 2"),
        WRITTEN.replace(BOB.key, BOB.key.upper()),
        WRITTEN.replace(AGREED.digest.hex(), "ab"),
        WRITTEN.replace('public_key = "', 'public_key = "!'),
        WRITTEN.replace("signature =", "key ="),
        WRITTEN + "#" * FILE_BYTES,
    ],
)
def test_files_that_are_no_signatures(damaged: str) -> None:
    with pytest.raises(CharterError, match=r"bob\.sig"):
        decode(damaged, source="bob.sig")


@given(st.text(max_size=80))
def test_no_text_raises_anything_else(noise: str) -> None:
    with pytest.raises(CharterError):
        decode(noise)
