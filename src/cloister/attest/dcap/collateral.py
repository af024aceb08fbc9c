"""Collateral: what the makers of TEEs publish about them, in the form in which it is handed round: one JSON file.

For SGX and TDX it is what Intel's Provisioning Certification Service gives for one platform (API version 4), in the
field names and encodings that ``dcap-qvl`` uses for the same thing. For SEV-SNP it is what AMD's Key Distribution
Service gives for one chip (document 57230). Nothing in it is trusted: it is signed, which ``dcap`` and ``snp`` check.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as NotEncodedError
from binascii import unhexlify
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

from cloister.errors import CollateralError

BUNDLE_BYTES: Final = 1 << 20
"""The longest bundle that is looked at, in bytes. Genuine ones have about 10 to 30 KB."""

_HEX: Final = frozenset({"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapCollateral:
    """What Intel publishes about one platform (FMSPC) and CA. Chains are PEM, CRLs DER, signatures 64 raw bytes."""

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    """The JSON text that is signed, byte by byte as Intel wrote it."""
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    """The JSON text that is signed, byte by byte as Intel wrote it."""
    qe_identity_signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> DcapCollateral:
        """Collateral from its JSON form. Lengths and encodings are checked, signatures and dates are not.

        Raises:
            CollateralError: over 1 MiB, not JSON, a field missing, unknown, empty or of a wrong type.
        """
        return cls._from(_members(data))

    @classmethod
    def _from(cls, members: dict[str, Any]) -> DcapCollateral:
        return cls(**_exactly(members, [field.name for field in fields(cls)], dict.fromkeys(_HEX, _hex)))

    def encode(self) -> bytes:
        """The JSON form: texts as they are, bytes as hexadecimal digits."""
        return _write({field.name: getattr(self, field.name) for field in fields(self)}, lambda value: value.hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpCollateral:
    """What AMD publishes about one chip, each in DER: its VCEK (or the VLEK lent to its host), the product's ASK (or
    ASVK) and ARK, and the list of revoked certificates, which the ARK signs. None is what is not there.
    """

    vek: bytes | None
    ask: bytes | None
    ark: bytes | None
    crl: bytes | None

    @classmethod
    def parse(cls, data: bytes) -> SnpCollateral:
        """Collateral from its JSON form. Lengths and encodings are checked, signatures and dates are not.

        Raises:
            CollateralError: over 1 MiB, not JSON, a field unknown, empty or of a wrong type, or none there at all.
        """
        return cls._from(_members(data))

    @classmethod
    def _from(cls, members: dict[str, Any]) -> SnpCollateral:
        names = [field.name for field in fields(cls)]
        given = {name: value for name, value in members.items() if value is not None}
        if not given:
            raise CollateralError("the collateral is partial: it holds neither certificates nor a CRL")
        found = _exactly(given, [name for name in names if name in given], dict.fromkeys(names, _base64))
        return cls(**{name: found.get(name) for name in names})

    def encode(self) -> bytes:
        """The JSON form: bytes in base64, null for what is not there."""
        return _write(
            {field.name: getattr(self, field.name) for field in fields(self)}, lambda v: b64encode(v).decode()
        )


Collateral: TypeAlias = DcapCollateral | SnpCollateral


def parse_bundle(data: bytes) -> Collateral:
    """Collateral of either maker: its fields say whose it is.

    Raises:
        CollateralError: as ``DcapCollateral.parse`` and ``SnpCollateral.parse``.
    """
    members = _members(data)
    kind = SnpCollateral if members.keys() <= {field.name for field in fields(SnpCollateral)} else DcapCollateral
    return kind._from(members)


def _members(data: bytes) -> dict[str, Any]:
    if len(data) > BUNDLE_BYTES:
        raise CollateralError(f"the collateral has {len(data)} bytes, over the limit of {BUNDLE_BYTES}")
    try:
        members = json.loads(data.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):  # ValueError: not UTF-8, not JSON, absurd numbers
        raise CollateralError("the collateral is no JSON that can be read") from None
    if type(members) is not dict:
        raise CollateralError("the collateral is not a JSON object")
    return members


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8259, section 4: what a name that comes twice means is nobody's to say."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise CollateralError("the collateral has a field twice")
    return members


def _exactly(members: dict[str, Any], names: list[str], decoders: dict[str, Any]) -> dict[str, Any]:
    """These fields and no others, each a text that is not empty, decoded where it has a decoder."""
    missing = [name for name in names if name not in members]
    if missing:
        raise CollateralError(f"the collateral is partial: {', '.join(missing)} is missing")
    if len(members) != len(names):
        raise CollateralError("the collateral has a field that has no meaning here")
    for name in names:
        if type(members[name]) is not str or not members[name]:
            raise CollateralError(f"the collateral's {name} is not a text, or an empty one")
    try:
        for name in names:
            members[name].encode()  # JSON can spell half a character, which is no text
        return {name: decoders.get(name, str)(members[name]) for name in names}
    except (ValueError, NotEncodedError):
        raise CollateralError("the collateral has a text that is not encoded as it must be") from None


def _hex(text: str) -> bytes:
    return unhexlify(text)  # unlike bytes.fromhex, no spaces


def _base64(text: str) -> bytes:
    decoded = b64decode(text, validate=True)
    if not decoded:  # nothing but padding
        raise ValueError
    return decoded


def _write(members: dict[str, str | bytes | None], encode: Any) -> bytes:
    texts = {name: encode(value) if isinstance(value, bytes) else value for name, value in members.items()}
    return json.dumps(texts, indent=1).encode()
