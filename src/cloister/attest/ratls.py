"""RA-TLS certificates: self-signed, with an SGX or TDX quote inside that is about the certificate's key.

Gramine writes the quote in two extensions. In the older one it stands as it is, and its report data is SHA-256 of the
SubjectPublicKeyInfo, then zeros. The newer one (TCG DICE tagged evidence; "Interoperable RA-TLS" of the Confidential
Computing Consortium) holds CBOR, tag 60000: the quote, and claims among which is the key's hash; the report data is
SHA-256 of the claims, then zeros.

Such a certificate carries no nonce: whoever has its key can show it again for ever. It says what a key belongs to, and
not that anything runs now.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Literal

import cbor2
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cloister.attest import cbor, der
from cloister.attest.dcap.quote import Quote
from cloister.errors import EvidenceError, NotGenuineError

CERTIFICATE_BYTES: Final = 1 << 16
"""The longest certificate that is looked at. Genuine ones have 5 to 10 KB."""

_OIDS: Final[dict[str, Literal["gramine", "dice"]]] = {
    "0.6.9.42.840.113741.1337.6": "gramine",
    "2.23.133.5.4.9": "dice",
}
_TAGGED_QUOTE: Final = 60000
_KEY_HASH: Final = "pubkey-hash"
_SHA256: Final = 1
"""In the IANA registry "Named Information Hash Algorithm"."""

_ECDSA: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "1.2.840.10045.4.3.2": hashes.SHA256,
    "1.2.840.10045.4.3.3": hashes.SHA384,
    "1.2.840.10045.4.3.4": hashes.SHA512,
}
_NULL: Final = b"\x05\x00"

_EVIDENCE: Final = "the certificate's evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class RaTlsEvidence:
    """What an RA-TLS certificate holds. The quote is about the key, and the key signed the certificate; whether the
    quote is genuine is not looked at."""

    quote: bytes
    """As it stands in the newer extension, if there are both."""
    spki: bytes
    """The certificate's key, SubjectPublicKeyInfo in DER."""
    extensions: tuple[Literal["gramine", "dice"], ...]
    """Which were there, in the certificate's order. The quote in each is about the key."""


def unwrap(certificate: bytes) -> RaTlsEvidence:
    """What is in an RA-TLS certificate (X.509 in DER, at most 64 KiB). Its dates are not looked at.

    Read here and not by ``cryptography``, which refuses the parameters that Gramine gives to ECDSA.

    Raises:
        EvidenceError: it is no certificate that is read here, or none with a quote in it.
        NotGenuineError: it is not signed by its own key, or a quote in it is about another key.
    """
    if len(certificate) > CERTIFICATE_BYTES:
        raise EvidenceError(f"a certificate of {len(certificate)} bytes is over the limit of {CERTIFICATE_BYTES}")
    parts = der.read(certificate, der.SEQUENCE).children()
    fields = parts[0].expect(der.SEQUENCE).children() if len(parts) == 3 else []
    if len(fields) != 8:
        raise EvidenceError("no X.509 certificate of version 3 with extensions")
    spki = fields[6].expect(der.SEQUENCE).encoded
    _check_signature(parts, fields[2], spki)
    quotes = {_OIDS[name]: _bound(name, value, spki) for name, value in _extensions(fields[7]).items() if name in _OIDS}
    if not quotes:
        raise EvidenceError("a certificate without a quote: it has neither of the RA-TLS extensions")
    return RaTlsEvidence(
        quote=quotes["dice"] if "dice" in quotes else quotes["gramine"], spki=spki, extensions=tuple(quotes)
    )


def _check_signature(parts: list[der.Element], algorithm: der.Element, spki: bytes) -> None:
    """Whoever made the certificate has its key (RFC 5280, 4.1.1.2 and 4.1.1.3)."""
    signed, outer, signature = parts
    name, *parameters = outer.expect(der.SEQUENCE).children() or [outer]
    kind = _ECDSA.get(der.oid(name.content)) if name.tag == der.OID else None
    if kind is None or [one.encoded for one in parameters] not in ([], [_NULL]):
        raise EvidenceError("a certificate that is not signed with ECDSA and SHA-2")
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise EvidenceError("a certificate whose key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EvidenceError("a certificate whose key is not on an elliptic curve")
    try:
        if algorithm.encoded != outer.encoded:
            raise InvalidSignature
        key.verify(der.bits(signature.expect(der.BIT_STRING).content), signed.encoded, ec.ECDSA(kind()))
    except InvalidSignature:
        raise NotGenuineError("the certificate is not signed by its own key: it was changed") from None


def _extensions(wrapper: der.Element) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in der.read(wrapper.expect(der.context(3)).content, der.SEQUENCE).children():
        fields = entry.expect(der.SEQUENCE).children()
        if not 2 <= len(fields) <= 3:
            raise EvidenceError("a certificate with an extension that cannot be read")
        name = der.oid(fields[0].expect(der.OID).content)
        if name in found:
            raise EvidenceError(f"a certificate with the extension {name} twice")
        found[name] = fields[-1].expect(der.OCTET_STRING).content
    return found


def _bound(name: str, value: bytes, spki: bytes) -> bytes:
    """The quote in an extension, which is about the key."""
    key_hash = hashlib.sha256(spki).digest()
    if _OIDS[name] == "gramine":
        quote, told = value, key_hash
    else:
        quote, claims = _tagged(value)
        if _key_hash(claims) != [_SHA256, key_hash]:
            raise NotGenuineError("the claims beside the quote are about another key than the certificate's")
        told = hashlib.sha256(claims).digest()
    if Quote.parse(quote).report_data != told + bytes(32):
        raise NotGenuineError("the quote in the certificate is about another key")
    return quote


def _tagged(value: bytes) -> tuple[bytes, bytes]:
    match cbor.decode(value, what=_EVIDENCE):
        case cbor2.CBORTag(tag=tag, value=[bytes(quote), bytes(claims)]) if tag == _TAGGED_QUOTE:
            return quote, claims
    raise EvidenceError(f"the certificate's evidence is not a quote with claims (CBOR tag {_TAGGED_QUOTE})")


def _key_hash(claims: bytes) -> Any:
    match cbor.decode(claims, what=_EVIDENCE):
        case dict(items) if type(items.get(_KEY_HASH)) is bytes:
            return cbor.decode(items[_KEY_HASH], what=_EVIDENCE)
    raise EvidenceError(f"the claims beside the quote have no {_KEY_HASH!r}")
