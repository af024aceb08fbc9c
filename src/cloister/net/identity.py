"""Identities: one file that holds a private key and its certificate, and the fingerprint that others know it by.

A peer is the SHA-256 of its public key, and nothing else. The certificates around the keys exist because ``ssl`` hands
over a client's certificate only when its chain verifies; so all of them are issued by one *public issuer*, whose
private key anyone can derive from the sentence below. It vouches for nobody. It makes TLS ask for the certificate, have
its holder prove the key, and check its dates; who the holder is, the pin alone decides (``tls``, docs/wire.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.errors import IdentityError

PUBLIC_ISSUER: Final = b"cloister: this issuer's private key is public, so its signature vouches for nobody"
"""The sentence whose SHA-256 is the seed of the public issuer's Ed25519 key (RFC 8032, section 5.1.5)."""

DAYS: Final = 825
"""How long a certificate lives, in days."""

Algorithm = Literal["ed25519", "p256"]
_PrivateKey: TypeAlias = Ed25519PrivateKey | EllipticCurvePrivateKey

_ISSUER_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloister public issuer")])
_MEMBER_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloister member")])
_ISSUED: Final = datetime(2020, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, section 4.1.2.5: no expiry
_SKEW: Final = timedelta(hours=1)
_FILE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What is public about an identity file. The private key stays in the file; ``ssl`` reads it from there."""

    path: Path
    fingerprint: str
    algorithm: Algorithm
    not_before: datetime
    not_after: datetime

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        days: int = DAYS,
        algorithm: Algorithm = "ed25519",
        now: datetime | None = None,
    ) -> Identity:
        """Makes a key with a certificate for ``days`` days and writes both to a new file of mode 0600.

        Raises:
            IdentityError: the file exists or cannot be written, or ``days`` or ``algorithm`` makes no sense.
        """
        if algorithm not in ("ed25519", "p256"):
            raise IdentityError(f"{algorithm!r} is no key algorithm: choose ed25519 or p256")
        key = Ed25519PrivateKey.generate() if algorithm == "ed25519" else generate_private_key(SECP256R1())
        certificate = _certify(key, days=days, now=now)
        try:
            with open(path, "xb", opener=_private_opener) as file:
                file.write(_pem(key, certificate))
        except FileExistsError:
            raise IdentityError(
                f"{path} exists and is not overwritten: its fingerprint would be lost. `cloister key renew` gives it"
                " a new certificate for the same key"
            ) from None
        except OSError as fault:
            raise IdentityError(f"{path} cannot be written: {fault.strerror}") from None
        return cls.read(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, now: datetime | None = None) -> Identity:
        """Reads an identity that is to be used.

        Raises:
            IdentityError: the file is missing, readable by others or not an identity, or it is not valid now.
        """
        identity = cls.read(path)
        moment = now or datetime.now(UTC)
        if moment > identity.not_after:
            raise IdentityError(
                f"the certificate in {path} expired on {identity.not_after:%Y-%m-%d}: run `cloister key renew {path}`;"
                " its fingerprint stays the same"
            )
        if moment < identity.not_before:
            raise IdentityError(
                f"the certificate in {path} is valid from {identity.not_before:%Y-%m-%d %H:%M} UTC on:"
                " is this clock right?"
            )
        return identity

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Identity:
        """Reads an identity, whatever its dates.

        Raises:
            IdentityError: the file is missing, readable by others, or not an identity.
        """
        return _parse(Path(path), _read_private(Path(path)))[0]

    @classmethod
    def renew(cls, path: str | os.PathLike[str], *, days: int = DAYS, now: datetime | None = None) -> Identity:
        """Gives the key a new certificate. The fingerprint stays, so nobody else has to be told.

        Raises:
            IdentityError: as ``read``, or the file cannot be replaced.
        """
        target = Path(path)
        _, key = _parse(target, _read_private(target))
        _replace(target, _pem(key, _certify(key, days=days, now=now)))
        return cls.read(target)


def private_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    """The private key in an identity file, for what TLS does not sign: a charter.

    Raises:
        IdentityError: as ``Identity.read``.
    """
    return _parse(Path(path), _read_private(Path(path)))[1]


def new_instance_key(*, now: datetime | None = None) -> tuple[bytes, bytes, str]:
    """A key that lives as long as a process, its certificate (both PEM) and its fingerprint. Nothing is written."""
    key = Ed25519PrivateKey.generate()
    certificate = _certify(key, days=DAYS, now=now)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, certificate.public_bytes(Encoding.PEM), _fingerprint(certificate)


def spki_hash(fingerprint: str) -> bytes | None:
    """The 32 bytes of a fingerprint; None for the empty one of a peer that showed no certificate."""
    return bytes.fromhex(fingerprint.removeprefix("sha256:")) or None


def fingerprint_of(certificate: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits: the hash of a DER certificate's SubjectPublicKeyInfo.

    Raises:
        IdentityError: not a certificate, or a key of an unknown kind.
    """
    try:
        return _fingerprint(x509.load_der_x509_certificate(certificate))
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError("a certificate that cannot be read") from None


@cache
def public_issuer() -> x509.Certificate:
    """The certificate of the public issuer: the same bytes on every machine."""
    key = _issuer_key()
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


def _issuer_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(PUBLIC_ISSUER).digest())


def _certify(key: _PrivateKey, *, days: int, now: datetime | None) -> x509.Certificate:
    if not 1 <= days <= 36_500:
        raise IdentityError(f"a certificate lives between 1 and 36500 days, not {days}")
    start = (now or datetime.now(UTC)).replace(microsecond=0)
    public, issuer = key.public_key(), _issuer_key()
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


def _fingerprint(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"


def _pem(key: _PrivateKey, certificate: x509.Certificate) -> bytes:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _parse(path: Path, pem: bytes) -> tuple[Identity, _PrivateKey]:
    try:
        key = load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
        matches = certificate.public_key() == key.public_key()
        fingerprint = _fingerprint(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # TypeError: an encrypted key. None of these texts would help, and none should repeat what the file holds.
        raise IdentityError(
            f"{path} is not an identity (a private key without pass phrase, then its certificate, in PEM):"
            " `cloister key new` makes one"
        ) from None
    if isinstance(key, Ed25519PrivateKey):
        algorithm: Algorithm = "ed25519"
    elif isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        algorithm = "p256"
    else:
        raise IdentityError(f"{path} holds a key that is neither Ed25519 nor P-256: `cloister key new` makes one")
    if not matches:
        raise IdentityError(f"the certificate in {path} is for another key than the one before it")
    identity = Identity(
        path=path,
        fingerprint=fingerprint,
        algorithm=algorithm,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )
    return identity, key


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise IdentityError(f"{path} is not a file")
            if found.st_mode & 0o077:
                raise IdentityError(f"{path} holds a private key and others may read it: run `chmod 600 {path}`")
            pem = file.read(_FILE_BYTES + 1)
    except FileNotFoundError:
        raise IdentityError(f"there is no identity at {path}: `cloister key new {path}` makes one") from None
    except OSError as fault:
        raise IdentityError(f"{path} cannot be read: {fault.strerror}") from None
    if len(pem) > _FILE_BYTES:
        raise IdentityError(f"{path} is too long to be an identity")
    return pem


def _replace(path: Path, data: bytes) -> None:
    """Puts ``data`` in the place of the file at once: whoever reads it finds the old identity or the new one."""
    target = path.resolve()
    try:
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # born with mode 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
    except OSError as fault:
        raise IdentityError(f"{path} cannot be replaced: {fault.strerror}") from None


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
