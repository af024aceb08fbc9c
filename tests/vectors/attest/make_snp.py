"""SEV-SNP evidence of our own making, for what no one publishes: a chip, its keys, its reports and its CRL.

Nothing is written to disk, and keys are drawn anew in every process. The DER and the report are put together by hand
here, so that cloister's readers are not tested against themselves. RSA keys have 2048 bits where AMD's have 4096: they
are quicker to make. ``Platform().report(...)`` is genuine under ``Platform().roots`` and no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

NOW: Final = datetime(2026, 7, 1, 12, tzinfo=UTC)
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
END: Final = datetime(2033, 1, 1, tzinfo=UTC)

P384_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973

PSS: Final = bytes.fromhex(
    "304606092a864886f70d01010a3039a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101"
)
RSA_SHA256: Final = bytes.fromhex("300d06092a864886f70d01010b0500")

CPUID: Final = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}
LAYOUT: Final = {
    "Milan": ("bl", "tee", "", "", "", "", "snp", "ucode"),
    "Genoa": ("bl", "tee", "", "", "", "", "snp", "ucode"),
    "Turin": ("fmc", "bl", "tee", "snp", "", "", "", "ucode"),
}
TCB: Final = {"bl": 4, "tee": 1, "snp": 24, "ucode": 219, "fmc": 2}
SPL: Final = {"bl": 1, "tee": 2, "snp": 3, "ucode": 8, "fmc": 9}
"""The last arc of 1.3.6.1.4.1.3704.1.3.x."""


class Extension(NamedTuple):
    """``oid`` are the contents of an OBJECT IDENTIFIER."""

    oid: bytes
    value: bytes
    critical: bool = False


CA: Final = Extension(b"\x55\x1d\x13", bytes.fromhex("30030101ff"), critical=True)
NO_CA: Final = Extension(b"\x55\x1d\x13", bytes.fromhex("3000"), critical=True)
CERT_SIGN: Final = Extension(b"\x55\x1d\x0f", bytes.fromhex("03020204"), critical=True)
CERT_AND_CRL_SIGN: Final = Extension(b"\x55\x1d\x0f", bytes.fromhex("03020106"), critical=True)
CRL_SIGN: Final = Extension(b"\x55\x1d\x0f", bytes.fromhex("03020102"), critical=True)


def amd(*arcs: int) -> bytes:
    """The contents of the OBJECT IDENTIFIER 1.3.6.1.4.1.3704.1 followed by these arcs."""
    return bytes.fromhex("2b060104019c7801") + bytes(arcs)


def tlv(tag: int, *parts: bytes) -> bytes:
    """DER: tag, length, contents."""
    content = b"".join(parts)
    size = len(content)
    octets = b"" if size < 0x80 else size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(octets) if octets else size]) + octets + content


def whole(number: int) -> bytes:
    """An INTEGER that is not negative."""
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1))


def name(common: str) -> bytes:
    """A Name as AMD writes it, with a country and a common name."""
    country = tlv(0x31, tlv(0x30, b"\x06\x03\x55\x04\x06", tlv(0x13, b"US")))
    return tlv(0x30, country, tlv(0x31, tlv(0x30, b"\x06\x03\x55\x04\x03", tlv(0x0C, common.encode()))))


def moment(when: datetime) -> bytes:
    """A UTCTime."""
    return tlv(0x17, f"{when:%y%m%d%H%M%SZ}".encode())


def extension_list(extensions: tuple[Extension, ...]) -> bytes:
    """SEQUENCE OF Extension."""
    return tlv(
        0x30,
        *(
            tlv(0x30, tlv(0x06, one.oid), b"\x01\x01\xff" if one.critical else b"", tlv(0x04, one.value))
            for one in extensions
        ),
    )


def spki(key: Key) -> bytes:
    """The key's SubjectPublicKeyInfo, in DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(tbs: bytes, key: rsa.RSAPrivateKey, algorithm: bytes = PSS) -> bytes:
    """What was signed, the algorithm and the signature, as certificates and CRLs have them."""
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    return tlv(0x30, tbs, algorithm, tlv(0x03, b"\0", key.sign(tbs, pss, hashes.SHA384())))


def certificate(
    *,
    subject: str,
    issuer: str,
    key: Key,
    signer: rsa.RSAPrivateKey,
    serial: int,
    extensions: tuple[Extension, ...],
    begin: datetime = BEGIN,
    end: datetime = END,
    algorithm: bytes = PSS,
) -> bytes:
    """A certificate, in DER."""
    tbs = tlv(
        0x30,
        tlv(0xA0, whole(2)),
        whole(serial),
        algorithm,
        name(issuer),
        tlv(0x30, moment(begin), moment(end)),
        name(subject),
        spki(key),
        tlv(0xA3, extension_list(extensions)),
    )
    return sign(tbs, signer, algorithm)


@cache
def rsa_key(owner: str) -> rsa.RSAPrivateKey:
    """This owner's key: the same one all through a process."""
    assert owner
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(owner: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:
    """This owner's key: the same one all through a process."""
    assert owner
    return ec.generate_private_key(curve())


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A chip (``kind`` vcek) or a chip at a provider that has a key of its own (vlek), and what vouches for it."""

    product: str = "Milan"
    kind: str = "vcek"
    chip_id: bytes = bytes(range(1, 65))
    tcb: Mapping[str, int] = field(default_factory=lambda: dict(TCB))

    @property
    def roots(self) -> dict[str, bytes]:
        """What ``authenticate`` takes in place of AMD's pins."""
        return {self.product: hashlib.sha256(spki(rsa_key(f"ARK-{self.product}"))).digest()}

    @property
    def ask_name(self) -> str:
        """The subject of the certificate in the middle."""
        return f"SEV-{self.product}" if self.kind == "vcek" else f"SEV-VLEK-{self.product}"

    @property
    def components(self) -> tuple[str, ...]:
        """The TCB's components on this product."""
        return tuple(filter(None, LAYOUT[self.product]))

    @property
    def hwid(self) -> bytes:
        """What the certificate says of the chip."""
        return self.chip_id[:8] if self.product == "Turin" else self.chip_id

    def ark(self, *, key: str = "", extensions: tuple[Extension, ...] = (CERT_AND_CRL_SIGN, CA)) -> bytes:
        """The root's certificate; ``key`` names the owner of another key than the pinned one."""
        subject = f"ARK-{self.product}"
        own = rsa_key(key or subject)
        return certificate(subject=subject, issuer=subject, key=own, signer=own, serial=0x10000, extensions=extensions)

    def ask(
        self,
        *,
        issuer: str = "",
        key: str = "",
        signer: str = "",
        extensions: tuple[Extension, ...] = (CA, CERT_SIGN),
        begin: datetime = BEGIN,
        end: datetime = END,
    ) -> bytes:
        """The certificate in the middle."""
        ark = f"ARK-{self.product}"
        return certificate(
            subject=self.ask_name,
            issuer=issuer or ark,
            key=rsa_key(key or self.ask_name),
            signer=rsa_key(signer or ark),
            serial=0x10001,
            extensions=extensions,
            begin=begin,
            end=end,
        )

    def vek_extensions(
        self, *, product: str = "", tcb: Mapping[str, int] | None = None, hwid: bytes | None = None
    ) -> tuple[Extension, ...]:
        """What AMD writes into a VCEK's or VLEK's certificate."""
        levels = self.tcb if tcb is None else tcb
        whose = (
            Extension(amd(4), self.hwid if hwid is None else hwid)
            if self.kind == "vcek"
            else Extension(amd(5), tlv(0x16, b"CN=cloud.example"))
        )
        return (
            Extension(amd(2), tlv(0x16, (product or f"{self.product}-B0").encode())),
            *(Extension(amd(3, SPL[one]), whole(levels[one])) for one in self.components),
            whose,
        )

    def vek(
        self,
        *,
        subject: str = "",
        issuer: str = "",
        key: Key | None = None,
        signer: str = "",
        serial: int = 0,
        extensions: tuple[Extension, ...] | None = None,
        begin: datetime = BEGIN,
        end: datetime = END,
    ) -> bytes:
        """The certificate of the key that signs reports. As all of AMD's it has serial number 0."""
        return certificate(
            subject=subject or f"SEV-{self.kind.upper()}",
            issuer=issuer or self.ask_name,
            key=key or ec_key(self.kind),
            signer=rsa_key(signer or self.ask_name),
            serial=serial,
            extensions=self.vek_extensions() if extensions is None else extensions,
            begin=begin,
            end=end,
        )

    def crl(
        self,
        *,
        revoked: tuple[int, ...] = (),
        issuer: str = "",
        signer: str = "",
        extensions: tuple[Extension, ...] = (Extension(b"\x55\x1d\x14", whole(7)),),
        begin: datetime = BEGIN,
        end: datetime | None = END,
    ) -> bytes:
        """The list of revoked certificates, with their serial numbers."""
        ark = f"ARK-{self.product}"
        entries = tlv(0x30, *(tlv(0x30, whole(serial), moment(begin)) for serial in revoked)) if revoked else b""
        tbs = tlv(
            0x30,
            whole(1),
            PSS,
            name(issuer or ark),
            moment(begin),
            moment(end) if end else b"",
            entries,
            tlv(0xA0, extension_list(extensions)),
        )
        return sign(tbs, rsa_key(signer or ark))

    def tcb_version(self, **levels: int) -> bytes:
        """Eight bytes, in the product's layout."""
        return bytes({**self.tcb, **levels}[one] if one else 0 for one in LAYOUT[self.product])

    def unsigned(self, patches: Mapping[int, bytes] | None = None, *, version: int = 3) -> bytearray:
        """A report's 672 bytes that get signed, with bytes at some offsets replaced."""
        report = bytearray(0x2A0)
        fields = {
            0x00: version.to_bytes(4, "little"),
            0x04: (7).to_bytes(4, "little"),  # guest_svn
            0x08: (1 << 17 | 1 << 16).to_bytes(8, "little"),  # policy: SMT
            0x34: (1).to_bytes(4, "little"),  # signature_algo
            0x40: (0x25).to_bytes(8, "little"),  # platform_info
            0x48: (0 if self.kind == "vcek" else 1 << 2).to_bytes(4, "little"),  # key information
            0x50: b"\xd0" * 64,  # report_data
            0x90: b"\xa1" * 48,  # measurement
            0xC0: b"\xa2" * 32,  # host_data
            0xE0: b"\xa3" * 48,  # id_key_digest
            0x110: b"\xa4" * 48,  # author_key_digest
            0x140: b"\xa5" * 32,  # report_id
            0x160: b"\xff" * 32,  # report_id_ma: none
            0x188: CPUID[self.product] if version >= 3 else b"",
            0x1A0: self.hwid.ljust(64, b"\0"),
            **dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), self.tcb_version()),
        }
        for at, value in {**fields, **(patches or {})}.items():
            report[at : at + len(value)] = value
        return report

    def report(
        self,
        patches: Mapping[int, bytes] | None = None,
        *,
        version: int = 3,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """A report of 1184 bytes, signed by the chip's key or by another; ``patches`` are made before it is signed."""
        report = bytes(self.unsigned(patches, version=version))
        r, s = decode_dss_signature((key or ec_key(self.kind)).sign(report, ec.ECDSA(hashes.SHA384())))
        return report + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(0x4A0 - 0x330)
