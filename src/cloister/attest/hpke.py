"""Sealing: a secret that only one attested instance can open (HPKE, RFC 9180, base mode).

The key encapsulation is X-Wing (KEM 0x647A, draft-connolly-cfrg-xwing-kem): ML-KEM-768 (FIPS 203) together with X25519
(RFC 7748), so that what is recorded today stays closed as long as either holds; then HKDF-SHA-512 and AES-256-GCM.
``info`` says what the secret is sealed for, and a secret opens for nothing else. Every sealed secret has the same
length, whatever the secret's.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from cloister.attest.transcript import HPKE_KEY_BYTES
from cloister.errors import EvidenceError, LimitError, NotGenuineError
from cloister.wire.limits import SECRET_BYTES

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA512, AEAD.AES_256_GCM)
_MLKEM_BYTES: Final = 1184
_LENGTH_BYTES: Final = 2
_TAG_BYTES: Final = 16

SEALED_SECRET_BYTES: Final = 1120 + _LENGTH_BYTES + SECRET_BYTES + _TAG_BYTES
"""Encapsulated key (ML-KEM's ciphertext and X25519's public key), the secret padded to the most it may have, and the
tag."""


class SealingKey:
    """The private half, which lives in one process's memory and has no other form."""

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self._public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SealingKey:
        """A new key, from the system's random numbers."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    def public_bytes(self) -> bytes:
        """What others seal to: ML-KEM-768's encapsulation key (1184 bytes), then X25519's public key (32)."""
        return self._public

    def unseal(self, sealed: bytes, *, info: bytes) -> bytes:
        """The secret that was sealed to this key for ``info``.

        Raises:
            NotGenuineError: it was sealed to another key, or for something else, or it was changed on its way.
        """
        if len(sealed) != SEALED_SECRET_BYTES:
            raise NotGenuineError(f"a sealed secret has {SEALED_SECRET_BYTES} bytes, not {len(sealed)}")
        try:
            padded = _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError):  # ValueError: a share of X25519 that leads to nothing (RFC 7748, section 6.1)
            raise NotGenuineError(
                "the secret does not open: it was sealed to another instance's key or for something else, or changed on"
                " its way; verify this instance again, then seal it anew"
            ) from None
        return _unpad(padded)


def seal(secret: bytes, *, public_key: bytes, info: bytes) -> bytes:
    """Seals a secret of 1 to 4096 bytes to a ``SealingKey``, for ``info`` and nothing else.

    Raises:
        LimitError: the secret is empty or too long.
        EvidenceError: ``public_key`` is no sealing key.
    """
    if not 1 <= len(secret) <= SECRET_BYTES:
        raise LimitError(f"a secret has 1 to {SECRET_BYTES} bytes, not {len(secret)}")
    padded = len(secret).to_bytes(_LENGTH_BYTES) + secret.ljust(SECRET_BYTES, b"\0")
    if len(public_key) != HPKE_KEY_BYTES:
        raise EvidenceError(f"a sealing key has {HPKE_KEY_BYTES} bytes, not {len(public_key)}")
    try:
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public_key[:_MLKEM_BYTES]),
            X25519PublicKey.from_public_bytes(public_key[_MLKEM_BYTES:]),
        )
        return _SUITE.encrypt(padded, key, info=info)
    except ValueError:  # not reduced modulo q (FIPS 203, section 7.2), or a point of small order
        raise EvidenceError("the instance's sealing key is none that anything can be sealed to") from None


def _unpad(padded: bytes) -> bytes:
    """Strict, though only whoever sealed it could have padded it wrongly: one secret has one form."""
    length = int.from_bytes(padded[:_LENGTH_BYTES])
    secret, padding = padded[_LENGTH_BYTES:][:length], padded[_LENGTH_BYTES + length :]
    if not 1 <= length <= SECRET_BYTES or padding.count(0) != len(padding):
        raise NotGenuineError("the secret opens but is not padded as it must be; its sender runs other software")
    return secret
