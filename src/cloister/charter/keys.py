"""What members sign with: Ed25519 (RFC 8032), or ECDSA on P-256 with SHA-256 (FIPS 186-5) in DER."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from cloister.errors import CharterError

PrivateKey: TypeAlias = Ed25519PrivateKey | EllipticCurvePrivateKey


def public_bytes(key: PrivateKey) -> bytes:
    """The key's SubjectPublicKeyInfo in DER, whose SHA-256 is the member's fingerprint."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(message: bytes, *, key: PrivateKey) -> bytes:
    """A member's signature. Every kind of message begins with a label of its own, so that none passes for another.

    Raises:
        CharterError: a key of a kind that members do not have.
    """
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key.curve, SECP256R1):
        return key.sign(message, ECDSA(SHA256()))
    raise CharterError("members sign with Ed25519 or P-256 keys")


def verify(signature: bytes, *, message: bytes, public_key: bytes) -> None:
    """Checks a signature that was made with the key whose SubjectPublicKeyInfo (DER) is ``public_key``.

    Raises:
        CharterError: it was not.
    """
    try:
        _verify(signature, message, public_key)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise CharterError("the signature is not valid") from None


@lru_cache(1024)  # valid ones: a process meets most of a round's twice or thrice, and 256 owners give 768
def _verify(signature: bytes, message: bytes, public_key: bytes) -> None:
    key = load_der_public_key(public_key)
    if isinstance(key, Ed25519PublicKey):
        key.verify(signature, message)
    elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        key.verify(signature, message, ECDSA(SHA256()))
    else:
        raise UnsupportedAlgorithm("neither Ed25519 nor P-256")
