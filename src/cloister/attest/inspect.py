"""Evidence of whatever kind, read for a person: which kind it is, and what it states. Nothing is verified here."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from binascii import Error as NotEncodedError
from typing import Any, Final, NamedTuple

import dcap_qvl

from cloister.attest import ratls, received, simulated
from cloister.attest.evidence import QUOTE_BYTES, Evidence
from cloister.attest.facts import SNP_SOFTWARE, TDX_MODULE, TDX_SOFTWARE, Facts, facts, stated
from cloister.attest.snp.report import REPORT_BYTES, VCEK, VLEK, Report, read_tcb
from cloister.attest.tcb import SnpTcb
from cloister.errors import EvidenceError
from cloister.wire.limits import EVIDENCE_BYTES

_PEM: Final = (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----")
_DER_SEQUENCE: Final = 0x30
_MSGPACK_ARRAYS: Final = (0x92, 0x93)
_SIMULATED: Final = b"cloister sim TEE"
_SNP_VERSIONS: Final = tuple(version.to_bytes(4, "little") for version in range(2, 6))
_QUOTE_VERSIONS: Final = tuple(version.to_bytes(2, "little") for version in range(3, 6))

_SGX_BODY: Final = 48
"""Where the report body starts: after the header (Intel SGX DCAP ECDSA Quote Library API, "Quote Format")."""
_SGX_DEBUG: Final = 1 << 1
"""In ATTRIBUTES (Intel SDM volume 3D, table "Layout of ATTRIBUTES Structure")."""
_TD_UNDER_DEBUG: Final = 0xFF
"""The TUD bits in TDATTRIBUTES (Intel TDX Module specification, "ATTRIBUTES"): any of them opens the TD."""


class Recognised(NamedTuple):
    """Evidence, and what it was found in."""

    evidence: Evidence
    form: str
    """What the bytes are, for a reader."""
    notes: tuple[str, ...] = ()


def recognise(data: bytes) -> Recognised:
    """The evidence in ``data``: an SGX or TDX quote, an SEV-SNP or simulated report, evidence as it travels, or an
    RA-TLS certificate in DER or PEM.

    Raises:
        EvidenceError: none of these. NotGenuineError: an RA-TLS certificate whose quote is not about its key.
    """
    if not data or len(data) > EVIDENCE_BYTES:
        raise EvidenceError(f"no evidence: it has {len(data)} bytes, and evidence has 1 to {EVIDENCE_BYTES}")
    if data.lstrip().startswith(_PEM[0]):  # quotes have PEM too, further on
        return _certificate(_from_pem(data))
    if data[0] == _DER_SEQUENCE:
        return _certificate(data)
    if data[0] in _MSGPACK_ARRAYS:
        return Recognised(received.decode(data), "evidence as it travels between members")
    if data.startswith(_SIMULATED):
        return Recognised(Evidence(tee="simulated", quote=data), "a simulated report")
    if data[:4] in _SNP_VERSIONS and len(data) == REPORT_BYTES:
        return Recognised(Evidence(tee="snp", quote=data), "an SEV-SNP attestation report")
    if data[:2] in _QUOTE_VERSIONS and len(data) <= QUOTE_BYTES:
        return _quote(data, "an SGX or TDX quote")
    raise EvidenceError(
        "no evidence of a known kind: neither an SGX or TDX quote, an SEV-SNP or simulated report, evidence as it "
        "travels, nor an RA-TLS certificate (DER or PEM)"
    )


def unverified(recognised: Recognised) -> Facts:
    """What the evidence states of itself. Anyone could have written it.

    Raises:
        EvidenceError: it cannot be read.
    """
    evidence = recognised.evidence
    notes = (f"Found in the file: {recognised.form}.", *recognised.notes)
    match evidence.tee:
        case "sgx" | "tdx":
            return _unverified_dcap(evidence.quote, notes)
        case "snp":
            return _unverified_snp(evidence.quote, notes)
        case "simulated":
            told = facts(simulated.authenticate(evidence.quote))
            return Facts(
                tee=told.tee,
                software=told.software,
                tcb=told.tcb,
                platform=told.platform,
                report_data=told.report_data,
                notes=notes,
            )


def _from_pem(data: bytes) -> bytes:
    _, _, rest = data.partition(_PEM[0])
    body, end, _ = rest.partition(_PEM[1])
    try:
        return b64decode(b"".join(body.split()), validate=True) if end else b""
    except NotEncodedError:
        return b""  # which is no certificate


def _certificate(der: bytes) -> Recognised:
    found = ratls.unwrap(der)
    notes = (
        f"The quote is about the certificate's key, sha256:{hashlib.sha256(found.spki).hexdigest()}, which signed the "
        "certificate; both were checked.",
        "It holds no nonce: whoever has the key can show it again for ever.",
    )
    return _quote(found.quote, f"an RA-TLS certificate ({', '.join(found.extensions)} extension)", notes)


def _quote(quote: bytes, form: str, notes: tuple[str, ...] = ()) -> Recognised:
    return Recognised(Evidence(tee="tdx" if _parse(quote).is_tdx() else "sgx", quote=quote), form, notes)


def _parse(quote: bytes) -> Any:
    """The quote, read by dcap-qvl: leniently, since this is for looking and not for believing."""
    try:
        return dcap_qvl.parse_quote(quote)
    except BaseException as fault:
        # What Rust calls a panic arrives as a BaseException of a module that cannot be imported.
        if not isinstance(fault, ValueError) and type(fault).__module__ != "pyo3_runtime":
            raise
        raise EvidenceError("no SGX or TDX quote: it does not parse") from None


def _unverified_dcap(quote: bytes, notes: tuple[str, ...]) -> Facts:
    parsed = _parse(quote)
    tdx, report, pck = parsed.is_tdx(), parsed.report, parsed.pck_extension()
    platform = {"quote version": parsed.header.version}
    if pck is not None:
        platform |= stated(pck, "fmspc ppid platform_instance_id")
    return Facts(
        tee="tdx" if tdx else "sgx",
        software=_tdx_software(report) if tdx else _sgx_software(report, quote),
        tcb=stated(report, TDX_MODULE if tdx else "cpu_svn"),
        platform=platform,
        report_data=report.report_data,
        notes=notes,
    )


def _tdx_software(report: Any) -> dict[str, Any]:
    debug = bool(report.td_attributes[0] & _TD_UNDER_DEBUG)
    return stated(report, TDX_SOFTWARE.replace("debug ", "")) | {"debug": debug}


def _sgx_software(report: Any, quote: bytes) -> dict[str, Any]:
    prod_id, svn = (int.from_bytes(quote[_SGX_BODY + at :][:2], "little") for at in (256, 258))
    debug = bool(report.attributes[0] & _SGX_DEBUG)
    return stated(report, "mr_enclave mr_signer attributes") | {
        "isv_prod_id": prod_id,
        "isv_svn": svn,
        "debug": debug,
    }


def _unverified_snp(data: bytes, notes: tuple[str, ...]) -> Facts:
    report = Report.parse(data)
    product = report.cpuid.product if report.cpuid is not None else None
    names = ("reported_tcb", "committed_tcb", "launch_tcb", "current_tcb")
    signers = {VCEK: "vcek", VLEK: "vlek"}
    tcb: dict[str, Any] = {}
    for name in names:
        raw = getattr(report, name)
        tcb[name.removesuffix("_tcb")] = raw.hex() if product is None else _components(read_tcb(raw, product=product))
    return Facts(
        tee="snp",
        software=stated(report, SNP_SOFTWARE),
        tcb=tcb,
        platform={
            "report version": report.version,
            "product": product,
            "signer": signers.get(report.signing_key),
            **stated(report, "chip_id platform_info"),
        },
        report_data=report.report_data,
        notes=notes,
    )


def _components(tcb: SnpTcb) -> dict[str, int | None]:
    return {name: getattr(tcb, name) for name in SnpTcb.__slots__ if getattr(tcb, name) is not None}
