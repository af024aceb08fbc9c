"""Identities: one file that holds a private key and its certificate, and the fingerprint that others know it by.

The certificate is one of the public issuer's, which vouches for nobody (``certificates``).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cloister import files
from cloister.charter.keys import PrivateKey
from cloister.errors import IdentityError
from cloister.net.certificates import DAYS, certify, fingerprint_in

Algorithm = Literal["ed25519", "p256"]
FILE_BYTES: Final = 1 << 14


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
        certificate = certify(key, days=days, now=now)
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
        _replace(target, _pem(key, certify(key, days=days, now=now)))
        return cls.read(target)


def private_key(path: str | os.PathLike[str]) -> PrivateKey:
    """The private key in an identity file, for what TLS does not sign: a charter.

    Raises:
        IdentityError: as ``Identity.read``.
    """
    return _parse(Path(path), _read_private(Path(path)))[1]


def _pem(key: PrivateKey, certificate: x509.Certificate) -> bytes:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _parse(path: Path, pem: bytes) -> tuple[Identity, PrivateKey]:
    try:
        # An RSA key is refused below. Proving its primes first, as is done otherwise, would take hours for long ones.
        key = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
        certificate = x509.load_pem_x509_certificate(pem)
        matches = certificate.public_key() == key.public_key()
        fingerprint = fingerprint_in(certificate)
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
        with files.opened(path, limit=FILE_BYTES) as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise IdentityError(f"{path} holds a private key and others may read it: run `chmod 600 {path}`")
            pem = file.read(FILE_BYTES + 1)
    except FileNotFoundError:
        raise IdentityError(f"there is no identity at {path}: `cloister key new {path}` makes one") from None
    except OSError as fault:
        raise IdentityError(f"{path} cannot be read: {fault.strerror}") from None
    if len(pem) > FILE_BYTES:
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
