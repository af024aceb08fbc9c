"""Members' signatures of a charter. They are detached: a charter stays the same file however many have signed it.

``cloister.charter.succession`` says whose signatures a successor needs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloister.charter import keys
from cloister.charter.charter import DIGEST_BYTES, Charter, Member
from cloister.charter.keys import PrivateKey
from cloister.charter.names import shown
from cloister.errors import CharterError, ConfigurationError
from cloister.tables import Table, faulty, load
from cloister.wire.peers import check_fingerprint, fingerprint

CONTEXT: Final = b"cloister charter signature 1\0"
"""Before the digest in what is signed, so that no signature made for something else can be one of a charter."""

FORMAT: Final = "cloister charter signature 1"
FILE_BYTES: Final = 4096
"""The longest signature file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What one key signed. Nothing in it has been checked."""

    charter: bytes
    """The charter's digest, 32 bytes."""
    key: str
    """The signer's fingerprint."""
    public_key: bytes
    """The signer's SubjectPublicKeyInfo, in DER."""
    signature: bytes
    """Over ``CONTEXT`` and the digest: Ed25519 (RFC 8032), or ECDSA on P-256 with SHA-256 (FIPS 186-5) in DER."""


def sign(charter: Charter, *, key: PrivateKey) -> Signature:
    """Signs a charter with the key of a member's identity.

    Raises:
        CharterError: the key is no member's, or of a kind that does not sign charters.
    """
    public_key = keys.public_bytes(key)
    signer = fingerprint(public_key)
    if charter.member(signer) is None:
        raise CharterError(
            f"the key {signer} is no member's of the charter {charter.name!r}: its signature counts nothing"
        )
    signature = keys.sign(CONTEXT + charter.digest, key=key)
    return Signature(charter=charter.digest, key=signer, public_key=public_key, signature=signature)


def encode(signature: Signature, *, form: str = FORMAT) -> str:
    """A signature as the TOML text of its file; ``form``: the kind of signature that it is."""
    return (
        f'format = "{form}"\n'
        f'charter = "{signature.charter.hex()}"\n'
        f'key = "{signature.key}"\n'
        f'public_key = "{base64.b64encode(signature.public_key).decode()}"\n'
        f'signature = "{base64.b64encode(signature.signature).decode()}"\n'
    )


def decode(text: str, *, source: str = "the signature", form: str = FORMAT) -> Signature:
    """The signature in a TOML text; ``source`` is its name for messages, ``form`` the kind of signature.

    Raises:
        CharterError: it is none.
    """
    if len(text) > FILE_BYTES:
        raise CharterError(f"{source} is too long to be a signature")
    faults: list[str] = []
    try:
        table = Table(load(text, source=source), faults=faults)
    except ConfigurationError as fault:
        raise CharterError(str(fault)) from None
    if table.text("format") not in ("", form):
        table.fault("format", f'must be "{form}"')
    signature = Signature(
        charter=table.hexadecimal("charter", size=DIGEST_BYTES) or bytes(DIGEST_BYTES),
        key=table.checked("key", what="a fingerprint", check=check_fingerprint) or "",
        public_key=table.checked("public_key", what="base64", check=_unbase64) or b"",
        signature=table.checked("signature", what="base64", check=_unbase64) or b"",
    )
    table.finish()
    if faults:
        raise faulty(source, faults, error=CharterError)
    return signature


def verify(signature: Signature, *, charter: Charter) -> Member:
    """The member who made the signature, for this charter.

    Raises:
        CharterError: it is for another charter, by no member, or does not verify.
    """
    signer = charter.member(signature.key)
    if signer is None:
        raise CharterError(f"a signature by {signature.key}, which is no member of the charter {charter.name!r}")
    if signature.charter != charter.digest:
        raise CharterError(
            f"{shown(signer.name)}'s signature is for another charter ({signature.charter.hex()}): this one is"
            f" {charter.digest.hex()}"
        )
    if fingerprint(signature.public_key) != signer.key:
        raise CharterError(f"{shown(signer.name)}'s signature comes with another public key than {signer.key}")
    try:
        keys.verify(signature.signature, message=CONTEXT + charter.digest, public_key=signature.public_key)
    except CharterError:
        raise CharterError(
            f"{shown(signer.name)}'s signature is not valid: it was not made with {signer.key}"
        ) from None
    return signer


def check_signed(charter: Charter, *, signatures: Iterable[Signature], own: str | None = None) -> None:
    """Checks that all owners have signed a charter, and the member with the fingerprint ``own``.

    Raises:
        CharterError: ``own`` is no member, a signature is missing, or one of those given cannot stand.
    """
    signed = {verify(signature, charter=charter).key for signature in signatures}
    needed = {member.key: shown(member.name) for member in charter.owners}
    if own is not None:
        member = charter.member(own)
        if member is None:
            raise CharterError(f"the key {own} is no member's of the charter {charter.name!r}")
        needed[own] = shown(member.name)
    missing = sorted(name for key, name in needed.items() if key not in signed)
    if missing:
        raise CharterError(
            f"the charter {charter.name!r} is not signed by {', '.join(missing)}: `cloister charter sign` does it"
        )


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CharterError("must be base64") from None
