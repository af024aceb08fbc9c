"""Certificates and revocation lists as AMD's Key Distribution Service issues them, read strictly.

Sources: RFC 5280; AMD "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification", document
57230. Read here and not by ``cryptography``, because every genuine VCEK and VLEK has serial number 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cloister.attest import der
from cloister.errors import EvidenceError, NotGenuineError

_PSS: Final = "06092a864886f70d01010a"
_SHA384: Final = "300d06096086480165030402020500"
_PARAMETERS: Final = f"a00f{_SHA384}a11c301a06092a864886f70d010108{_SHA384}a203020130"
RSASSA_PSS_SHA384: Final = frozenset(
    {
        bytes.fromhex(f"3041{_PSS}3034{_PARAMETERS}"),
        bytes.fromhex(f"3046{_PSS}3039{_PARAMETERS}a303020101"),
    }
)
"""The AlgorithmIdentifier (RFC 4055): SHA-384, MGF1 with SHA-384, salt of 48; with the trailer field, or without."""

_COMMON_NAME: Final = "2.5.4.3"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_KEY_USAGE: Final = "2.5.29.15"
_KEY_CERT_SIGN: Final = 0x04
_CRL_SIGN: Final = 0x02


class Extension(NamedTuple):
    """One extension: whether a reader has to understand it, and its DER (the contents of ``extnValue``)."""

    critical: bool
    value: bytes


class Signed(NamedTuple):
    """What an RSA key signed, and the signature."""

    tbs: bytes
    signature: bytes

    def check(self, spki: bytes) -> None:
        """Pass if the RSA key in ``spki`` (DER, of a key that is trusted already) made the signature.

        Raises:
            NotGenuineError: it did not.
        """
        try:
            key = load_der_public_key(spki)
            if not isinstance(key, rsa.RSAPublicKey):
                raise NotGenuineError("the issuer's key is not RSA")
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
            key.verify(self.signature, self.tbs, pss, hashes.SHA384())
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            raise NotGenuineError("the issuer's key did not make the signature") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What matters of a certificate. Subject and issuer are their common names."""

    subject: str
    issuer: str
    serial: int
    not_before: datetime
    not_after: datetime
    spki: bytes
    """The SubjectPublicKeyInfo, in DER."""
    extensions: Mapping[str, Extension]
    signed: Signed

    @property
    def is_ca(self) -> bool:
        """Whether it may sign certificates (RFC 5280, 4.2.1.9 and 4.2.1.3)."""
        constraints = self.extensions.get(_BASIC_CONSTRAINTS)
        if constraints is None or not self._usage & _KEY_CERT_SIGN:
            return False
        fields = der.read(constraints.value, der.SEQUENCE).children()
        return bool(fields) and fields[0].encoded == b"\x01\x01\xff"

    @property
    def signs_crls(self) -> bool:
        """Whether it may sign revocation lists."""
        return bool(self._usage & _CRL_SIGN)

    @property
    def _usage(self) -> int:
        usage = self.extensions.get(_KEY_USAGE)
        content = der.read(usage.value, der.BIT_STRING).content if usage else b""
        return content[1] if len(content) > 1 else 0

    @classmethod
    def parse(cls, data: bytes) -> Certificate:
        """The X.509 version 3 certificate in ``data``, in DER, signed with RSASSA-PSS and SHA-384.

        Raises:
            EvidenceError: it is none.
        """
        tbs, signed = _open(data)
        fields = tbs.children()
        if len(fields) != 8 or fields[0].encoded != b"\xa0\x03\x02\x01\x02":
            raise EvidenceError("a certificate that is not of version 3 with extensions")
        _, serial, algorithm, issuer, validity, subject, spki, extensions = fields
        _check_algorithm(algorithm)
        dates = validity.expect(der.SEQUENCE).children()
        if len(dates) != 2:
            raise EvidenceError("a certificate without its two dates")
        return cls(
            subject=_common_name(subject),
            issuer=_common_name(issuer),
            serial=der.integer(serial.expect(der.INTEGER).content),
            not_before=der.time(dates[0]),
            not_after=der.time(dates[1]),
            spki=spki.expect(der.SEQUENCE).encoded,
            extensions=_extensions(extensions.expect(der.context(3)), (_BASIC_CONSTRAINTS, _KEY_USAGE)),
            signed=signed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """What matters of a CRL. The issuer is its common name."""

    issuer: str
    this_update: datetime
    next_update: datetime
    revoked: frozenset[int]
    """Serial numbers, of certificates of this issuer."""
    signed: Signed

    @classmethod
    def parse(cls, data: bytes) -> RevocationList:
        """The CRL in ``data``, in DER, signed with RSASSA-PSS and SHA-384 (RFC 5280, section 5).

        Raises:
            EvidenceError: it is none, says not when the next one comes, or is a partial or indirect one.
        """
        tbs, signed = _open(data)
        fields = tbs.children()
        if fields and fields[0].encoded == b"\x02\x01\x01":
            del fields[0]
        if fields and fields[-1].tag == der.context(0):
            _extensions(fields.pop(), ())
        if not 4 <= len(fields) <= 5:
            raise EvidenceError("a CRL with other fields than it must have")
        _check_algorithm(fields[0])
        return cls(
            issuer=_common_name(fields[1]),
            this_update=der.time(fields[2]),
            next_update=der.time(fields[3]),
            revoked=frozenset(_revoked(entry) for entry in (fields[4].children() if len(fields) == 5 else ())),
            signed=signed,
        )


def _open(data: bytes) -> tuple[der.Element, Signed]:
    fields = der.read(data, der.SEQUENCE).children()
    if len(fields) != 3:
        raise EvidenceError("a certificate or CRL that is not its contents, an algorithm and a signature")
    tbs, algorithm, signature = fields
    _check_algorithm(algorithm)
    contents = tbs.expect(der.SEQUENCE)
    return contents, Signed(contents.encoded, der.bits(signature.expect(der.BIT_STRING).content))


def _check_algorithm(algorithm: der.Element) -> None:
    if algorithm.encoded not in RSASSA_PSS_SHA384:
        raise EvidenceError("a certificate or CRL that is not signed with RSASSA-PSS and SHA-384")


def _common_name(name: der.Element) -> str:
    found = []
    for part in name.expect(der.SEQUENCE).children():
        for attribute in part.expect(der.SET).children():
            fields = attribute.expect(der.SEQUENCE).children()
            if len(fields) != 2:
                raise EvidenceError("a name in a certificate or CRL that cannot be read")
            if der.oid(fields[0].expect(der.OID).content) == _COMMON_NAME:
                found.append(der.text(fields[1]))
    if len(found) != 1:
        raise EvidenceError(f"a name in a certificate or CRL with {len(found)} common names")
    return found[0]


def _extensions(wrapper: der.Element, understood: tuple[str, ...]) -> Mapping[str, Extension]:
    """RFC 5280, 4.2: what is critical and not understood makes the certificate unusable; none comes twice."""
    found: dict[str, Extension] = {}
    for entry in der.read(wrapper.content, der.SEQUENCE).children():
        fields = entry.expect(der.SEQUENCE).children()
        critical = len(fields) == 3 and fields[1].encoded == b"\x01\x01\xff"
        if len(fields) != 2 + critical:
            raise EvidenceError("an extension that cannot be read")
        name = der.oid(fields[0].expect(der.OID).content)
        if name in found or (critical and name not in understood):
            raise EvidenceError(f"the extension {name} comes twice, or is critical and not understood")
        found[name] = Extension(critical, fields[-1].expect(der.OCTET_STRING).content)
    return found


def _revoked(entry: der.Element) -> int:
    fields = entry.expect(der.SEQUENCE).children()
    if not 2 <= len(fields) <= 3:
        raise EvidenceError("an entry in a CRL that cannot be read")
    der.time(fields[1])
    if len(fields) == 3:
        _extensions(fields[2]._replace(content=fields[2].encoded), ())  # here they stand without a wrapper
    return der.integer(fields[0].expect(der.INTEGER).content)
