"""SGX and TDX evidence of our own making, with a root of its own, for what no one publishes.

    made = build(replace(SGX, pck_revoked=True))
    dcap.authenticate(made.quote, collateral=made.collateral, now=NOW, root=made.root)

A ``Recipe`` says what the platform, its quoting enclave and "Intel" are like; ``build`` makes quote, certificates,
CRLs, TCB info and QE identity, and signs them. The same recipe gives the same bytes, always.
Written from Intel's documents (quote format; SGX PCK Certificate and CRL Profile Specification; Provisioning
Certification Service API, version 4), not with cloister's own reader.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from cloister.attest.dcap.collateral import DcapCollateral

NOW: Final = datetime(2030, 6, 15, 12, tzinfo=UTC)
MONTH: Final = (NOW - timedelta(days=10), NOW + timedelta(days=20))

QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER: Final = bytes(range(32))
SEAM_SIGNER: Final = bytes(48)
SEPT_VE_DISABLE: Final = bytes.fromhex("0000001000000000")
DEBUG_ENCLAVE: Final = b"\x07" + bytes(15)

Span = tuple[datetime, datetime]


class Level(NamedTuple):
    """A TCB level: the least SVN of every component, PCE SVN, what Intel says of it, and the advisories."""

    svn: int = 5
    pce_svn: int = 10
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    date: str = "2030-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to make. The defaults are an SGX enclave on an up-to-date platform, with nothing wrong anywhere."""

    tee: Literal["sgx", "tdx"] = "sgx"
    td_body: Literal["1.0", "1.5", "1.5ex"] = "1.0"
    version: int = 3
    header_vendor: bytes = QE_VENDOR
    report_data: bytes = bytes(64)
    # the enclave or trust domain
    mr_enclave: bytes = b"\xe1" * 32
    mr_signer: bytes = b"\x51" * 32
    isv_prod_id: int = 7
    isv_svn: int = 3
    attributes: bytes = b"\x05" + bytes(15)
    mr_td: bytes = b"\x7d" * 48
    td_attributes: bytes = SEPT_VE_DISABLE
    mr_service_td: bytes = bytes(48)
    tee_tcb_svn: bytes = b"\x05\x00" + b"\x05" * 14
    # the platform, in its PCK certificate
    root: str = "root"
    fmspc: bytes = bytes.fromhex("00906ed50000")
    pce_id: bytes = b"\0\0"
    pce_svn: int = 11
    cpu_svn: bytes = b"\x06" * 16
    ppid: bytes = b"\x99" * 16
    platform_instance_id: bytes | None = b"\x17" * 16
    pck_valid: Span = (NOW - timedelta(days=900), NOW + timedelta(days=900))
    pck_revoked: bool = False
    ca_revoked: bool = False
    # its quoting enclave
    qe_signer: bytes = QE_SIGNER
    qe_prod_id: int = 1
    qe_svn: int = 8
    qe_attributes: bytes = b"\x11" + bytes(15)
    qe_misc_select: int = 0
    # what "Intel" publishes
    tcb_fmspc: bytes = bytes.fromhex("00906ed50000")
    tcb_pce_id: bytes = b"\0\0"
    tcb_type: str = ""
    tcb_span: Span = MONTH
    tcb_eval: int = 20
    tcb_levels: tuple[Level, ...] = (Level(), Level(svn=1, pce_svn=5, status="OutOfDate", advisories=("INTEL-SA-1",)))
    seam_signer: bytes = SEAM_SIGNER
    qe_id: str = ""
    qe_span: Span = MONTH
    qe_eval: int = 20
    qe_levels: tuple[Level, ...] = (Level(svn=8), Level(svn=6, status="OutOfDate", advisories=("INTEL-SA-2",)))
    root_crl_span: Span = (NOW - timedelta(days=100), NOW + timedelta(days=265))
    pck_crl_span: Span = MONTH
    signer: Literal["tcb", "pck"] = "tcb"
    """Who signs TCB info and QE identity: "Intel SGX TCB Signing", or the platform with its own PCK."""
    signer_name: str = "Intel SGX TCB Signing"
    signer_revoked: bool = False
    root_crl_key: str = ""
    pck_crl_key: str = "ca"
    tcb_key: str = ""
    qe_key: str = ""


SGX: Final = Recipe()
TDX: Final = Recipe(tee="tdx", version=4)


class Made(NamedTuple):
    """Evidence, what to judge it by, and the root certificate (DER) that both lead to."""

    quote: bytes
    collateral: DcapCollateral
    root: bytes


class Part(NamedTuple):
    """Where a part of a quote lies."""

    start: int
    end: int


def parts(recipe: Recipe) -> dict[str, Part]:
    """Where in the recipe's quote what lies."""
    start = 48 + (6 if recipe.version == 5 else 0)
    body = start + len(_body(recipe))
    auth = body + 4
    qe = auth + 128 + (6 if recipe.version > 3 else 0)
    return {
        "header": Part(0, 48),
        "body": Part(start, body),
        "signature": Part(auth, auth + 64),
        "attestation key": Part(auth + 64, auth + 128),
        "QE report": Part(qe, qe + 384),
        "QE signature": Part(qe + 384, qe + 448),
        "QE authentication data": Part(qe + 450, qe + 482),
    }


@cache
def build(recipe: Recipe) -> Made:
    """Quote, collateral and root, as the recipe wants them."""
    root = _certificate(recipe.root, recipe.root, f"Synthetic {recipe.root}", f"Synthetic {recipe.root}", ca=True)
    ca = _certificate("ca", recipe.root, "Synthetic PCK Platform CA", f"Synthetic {recipe.root}", ca=True)
    pck = _pck(recipe)
    tcb = _certificate("tcb", recipe.root, recipe.signer_name, f"Synthetic {recipe.root}")
    signers = [tcb, root] if recipe.signer == "tcb" else [pck, ca]
    tcb_info, qe_identity = _tcb_info(recipe), _qe_identity(recipe)
    revoked = [cert for cert, flag in ((ca, recipe.ca_revoked), (tcb, recipe.signer_revoked)) if flag]
    collateral = DcapCollateral(
        pck_crl_issuer_chain=_pem(ca, root),
        root_ca_crl=_crl(recipe.root_crl_key or recipe.root, root, recipe.root_crl_span, revoked),
        pck_crl=_crl(recipe.pck_crl_key, ca, recipe.pck_crl_span, [pck] if recipe.pck_revoked else []),
        tcb_info_issuer_chain=_pem(*signers),
        tcb_info=tcb_info,
        tcb_info_signature=sign(recipe.tcb_key or recipe.signer, tcb_info.encode()),
        qe_identity_issuer_chain=_pem(*signers),
        qe_identity=qe_identity,
        qe_identity_signature=sign(recipe.qe_key or recipe.signer, qe_identity.encode()),
    )
    return Made(_quote(recipe, _pem(pck, ca, root).encode()), collateral, root.public_bytes(Encoding.DER))


def sign(key: str, data: bytes) -> bytes:
    """ECDSA on P-256 with SHA-256, as r and s, by the key of that name."""
    r, s = decode_dss_signature(_key(key).sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32) + s.to_bytes(32)


@cache
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest()) >> 1, ec.SECP256R1())


def _point(name: str) -> bytes:
    return _key(name).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


# Certificates and CRLs


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.COUNTRY_NAME, "XX")])


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def _certificate(
    key: str,
    issuer_key: str,
    subject: str,
    issuer: str,
    *,
    ca: bool = False,
    valid: Span = (NOW - timedelta(days=1000), NOW + timedelta(days=1000)),
    extension: bytes | None = None,
) -> x509.Certificate:
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(_key(key).public_key())
        .serial_number(int.from_bytes(hashlib.sha256(f"serial of {key}".encode()).digest()[:16]) | 1)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(_key(key).public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_key(issuer_key).public_key()), critical=False
        )
    )
    if extension is not None:
        oid = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
    return builder.sign(_key(issuer_key), hashes.SHA256(), ecdsa_deterministic=True)


def _pck(recipe: Recipe) -> x509.Certificate:
    tcb = [(f"2.{number}", _der(0x02, bytes([svn]))) for number, svn in enumerate(recipe.cpu_svn, start=1)]
    tcb += [("2.17", _der(0x02, recipe.pce_svn.to_bytes(2))), ("2.18", _der(0x04, recipe.cpu_svn))]
    fields = [
        ("1", _der(0x04, recipe.ppid)),
        ("2", _sequence(tcb)),
        ("3", _der(0x04, recipe.pce_id)),
        ("4", _der(0x04, recipe.fmspc)),
        ("5", _der(0x0A, b"\x01")),
    ]
    if recipe.platform_instance_id is not None:
        fields.append(("6", _der(0x04, recipe.platform_instance_id)))
        fields.append(("7", _sequence([(f"7.{number}", _der(0x01, b"\xff")) for number in (1, 2, 3)])))
    return _certificate(
        "pck",
        "ca",
        "Intel SGX PCK Certificate",
        "Synthetic PCK Platform CA",
        valid=recipe.pck_valid,
        extension=_sequence(fields),
    )


def _der(tag: int, content: bytes) -> bytes:
    if tag == 0x02:
        content = content.lstrip(b"\0") or b"\0"
        content = b"\0" * (content[0] >> 7) + content
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2) if size > 0xFF else bytes([0x81, size])
    return bytes([tag]) + length + content


def _sequence(fields: list[tuple[str, bytes]]) -> bytes:
    arcs = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1
    return _der(
        0x30,
        b"".join(_der(0x30, _der(0x06, arcs + bytes(map(int, name.split(".")))) + value) for name, value in fields),
    )


def _crl(key: str, issuer: x509.Certificate, span: Span, revoked: list[x509.Certificate]) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(span[0])
        .next_update(span[1])
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(span[0])
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(_key(key), hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


# What "Intel" publishes


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _dates(span: Span) -> dict[str, str]:
    issued, next_update = (f"{end:%Y-%m-%dT%H:%M:%SZ}" for end in span)
    return {"issueDate": issued, "nextUpdate": next_update}


def _tcb_info(recipe: Recipe) -> str:
    tdx = recipe.tee == "tdx"
    module = {"mrsigner": recipe.seam_signer.hex().upper(), "attributes": "00" * 8, "attributesMask": "FF" * 8}
    levels = []
    for level in recipe.tcb_levels:
        components = [{"svn": level.svn}] * 16
        tcb: dict[str, Any] = {"sgxtcbcomponents": components, "pcesvn": level.pce_svn}
        if tdx:
            tcb["tdxtcbcomponents"] = [{"svn": level.svn}, {"svn": 0}, *components[2:]]
        levels.append(_level(level, tcb))
    return _text(
        {
            "id": recipe.tcb_type or recipe.tee.upper(),
            "version": 3,
            **_dates(recipe.tcb_span),
            "fmspc": recipe.tcb_fmspc.hex().upper(),
            "pceId": recipe.tcb_pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": recipe.tcb_eval,
            **({"tdxModule": module, "tdxModuleIdentities": []} if tdx else {}),
            "tcbLevels": levels,
        }
    )


def _level(level: Level, tcb: dict[str, Any]) -> dict[str, Any]:
    return {"tcb": tcb, "tcbDate": level.date, "tcbStatus": level.status, "advisoryIDs": list(level.advisories)}


def _qe_identity(recipe: Recipe) -> str:
    return _text(
        {
            "id": recipe.qe_id or {"sgx": "QE", "tdx": "TD_QE"}[recipe.tee],
            "version": 2,
            **_dates(recipe.qe_span),
            "tcbEvaluationDataNumber": recipe.qe_eval,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FB" + "FF" * 7 + "00" * 8,
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 1,
            "tcbLevels": [_level(level, {"isvsvn": level.svn}) for level in recipe.qe_levels],
        }
    )


# The quote


def _quote(recipe: Recipe, chain: bytes) -> bytes:
    tee_type = {"sgx": 0x00, "tdx": 0x81}[recipe.tee]
    body = _body(recipe)
    signed = struct.pack("<HHIHH16s20s", recipe.version, 2, tee_type, 8, 11, recipe.header_vendor, bytes(20))
    if recipe.version == 5:
        signed += struct.pack("<HI", {"1.0": 2, "1.5": 3, "1.5ex": 4}[recipe.td_body], len(body))
    signed += body
    key, extra = _point("attestation"), bytes(32)
    qe_report = _enclave(
        recipe,
        attributes=recipe.qe_attributes,
        mr_enclave=b"\x9e" * 32,
        mr_signer=recipe.qe_signer,
        prod_id=recipe.qe_prod_id,
        svn=recipe.qe_svn,
        misc_select=recipe.qe_misc_select,
        report_data=hashlib.sha256(key + extra).digest() + bytes(32),
    )
    vouched = qe_report + sign("pck", qe_report) + struct.pack("<H", len(extra)) + extra
    vouched += struct.pack("<HI", 5, len(chain)) + chain
    if recipe.version > 3:
        vouched = struct.pack("<HI", 6, len(vouched)) + vouched
    auth = sign("attestation", signed) + key + vouched
    return signed + struct.pack("<I", len(auth)) + auth


def _body(recipe: Recipe) -> bytes:
    if recipe.tee == "tdx":
        return _trust_domain(recipe)
    return _enclave(
        recipe,
        attributes=recipe.attributes,
        mr_enclave=recipe.mr_enclave,
        mr_signer=recipe.mr_signer,
        prod_id=recipe.isv_prod_id,
        svn=recipe.isv_svn,
        misc_select=0,
        report_data=recipe.report_data,
    )


def _enclave(
    recipe: Recipe,
    *,
    attributes: bytes,
    mr_enclave: bytes,
    mr_signer: bytes,
    prod_id: int,
    svn: int,
    misc_select: int,
    report_data: bytes,
) -> bytes:
    return struct.pack(
        "<16sI28x16s32s32x32s96xHH60x64s",
        recipe.cpu_svn,
        misc_select,
        attributes,
        mr_enclave,
        mr_signer,
        prod_id,
        svn,
        report_data,
    )


def _trust_domain(recipe: Recipe) -> bytes:
    registers = [recipe.mr_td, *(bytes([fill]) * 48 for fill in (0xC1, 0x01, 0x0C, 0xA0, 0xA1, 0xA2, 0xA3))]
    body = struct.pack(
        "<16s48s48s8x8s8s",
        recipe.tee_tcb_svn,
        b"\x5e" * 48,
        SEAM_SIGNER,
        recipe.td_attributes,
        bytes.fromhex("e702060000000000"),
    )
    body += b"".join(registers) + recipe.report_data
    if recipe.td_body == "1.0":
        return body
    body += recipe.tee_tcb_svn + recipe.mr_service_td
    return body if recipe.td_body == "1.5" else body + bytes(237)
