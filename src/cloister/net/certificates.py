"""Certificates around keys: TLS wants them, and they vouch for nobody.

A peer is the SHA-256 of its public key, and nothing else. The certificates around the keys exist because ``ssl`` hands
over a client's certificate only when its chain verifies; so all of them are issued by one *public issuer*, whose
private key anyone can derive from the sentence below. It makes TLS ask for the certificate, have its holder prove the
key, and check its dates; who the holder is, the pin alone decides (``tls``, docs/wire.md).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.charter.keys import PrivateKey
from cloister.errors import IdentityError
from cloister.wire.peers import fingerprint

PUBLIC_ISSUER: Final = b"cloister: this issuer's private key is public, so its signature vouches for nobody"
"""The sentence whose SHA-256 is the seed of the public issuer's Ed25519 key (RFC 8032, section 5.1.5)."""

DAYS: Final = 825
"""How long a certificate lives, in days."""

_ISSUER_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloister public issuer")])
_MEMBER_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloister member")])
_ISSUED: Final = datetime(2020, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, section 4.1.2.5: no expiry
_SKEW: Final = timedelta(hours=1)


def new_instance_key(*, now: datetime | None = None) -> tuple[Ed25519PrivateKey, bytes, str]:
    """A key that lives as long as a process, its certificate (PEM) and its fingerprint. Nothing is written."""
    key = Ed25519PrivateKey.generate()
    certificate = certify(key, days=DAYS, now=now)
    return key, certificate.public_bytes(Encoding.PEM), fingerprint_in(certificate)


def spki_hash(fingerprint: str) -> bytes | None:
    """The 32 bytes of a fingerprint; None for the empty one of a peer that showed no certificate."""
    return bytes.fromhex(fingerprint.removeprefix("sha256:")) or None


def fingerprint_of(certificate: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits: the hash of a DER certificate's SubjectPublicKeyInfo.

    Raises:
        IdentityError: not a certificate, or a key of an unknown kind.
    """
    try:
        return fingerprint_in(x509.load_der_x509_certificate(certificate))
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError("a certificate that cannot be read") from None


@cache
def public_issuer() -> x509.Certificate:
    """The certificate of the public issuer: the same bytes on every machine."""
    key = issuer_key()
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_ISSUER_NAME)
        .issuer_name(_ISSUER_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_ISSUED)
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )


def issuer_key() -> Ed25519PrivateKey:
    """The public issuer's private key, which everyone has."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(PUBLIC_ISSUER).digest())


def certify(key: PrivateKey, *, days: int, now: datetime | None) -> x509.Certificate:
    """A certificate for the key, from the public issuer, for ``days`` days.

    Raises:
        IdentityError: ``days`` makes no sense.
    """
    if not 1 <= days <= 36_500:
        raise IdentityError(f"a certificate lives between 1 and 36500 days, not {days}")
    start = (now or datetime.now(UTC)).replace(microsecond=0)
    public, issuer = key.public_key(), issuer_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_MEMBER_NAME)
        .issuer_name(_ISSUER_NAME)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _SKEW)  # a peer whose clock is behind
        .not_valid_after(start + timedelta(days=days))
        # Critical and not an issuer: no member's key can certify another.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer, None)
    )


def fingerprint_in(certificate: x509.Certificate) -> str:
    """The fingerprint of the key that a certificate is for."""
    return fingerprint(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
