"""SGX and TDX: whether Intel's hardware made a quote, and what the quote then says.

Sources: Intel SGX DCAP ECDSA Quote Library API, Intel TDX DCAP Quoting Library API, and Intel SGX PCK Certificate and
CRL Profile Specification. ``dcap-qvl`` does the cryptography and Intel's rules; what it leaves open is closed here:
bytes behind the end, the PCE that the TCB info is about, who may sign collateral, how old the collateral is, and every
way to fail has its own error. That a quote authenticates is no acceptance: an ``OutOfDate`` platform does too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import dcap_qvl
import msgspec
from msgspec import Meta, Struct, field

from cloister.attest.claims import DcapTcb, SgxClaims, TdxClaims
from cloister.attest.dcap.collateral import DcapCollateral
from cloister.attest.dcap.errors import refusal
from cloister.attest.dcap.published import Published
from cloister.attest.dcap.quote import Quote
from cloister.errors import AttestationError, CollateralError, NotGenuineError, UnacceptableError

STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
"""What Intel may say of a platform; ``Revoked`` authenticates never."""

_SGX_DEBUG: Final = 0x02
_TD_DEBUG: Final = 0x01

_NOT_UNDERSTOOD: Final = "dcap-qvl told something that is not understood here: install the version that cloister names"

_Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2})+$")]
_Octets = tuple[Annotated[int, Meta(ge=0, le=255)], ...]


class _Level(Struct):
    tcb_date: Annotated[datetime, Meta(tz=True)] = field(name="tcbDate")
    advisory_ids: tuple[str, ...] = field(name="advisoryIDs")


class _Pck(Struct):
    ppid: _Octets
    cpu_svn: _Octets
    pce_svn: int
    pce_id: _Octets
    fmspc: _Octets
    platform_instance_id: _Octets | None


class _Platform(Struct):
    tcb_level: _Level
    pck: _Pck


class _QeReport(Struct):
    isv_svn: int


class _Qe(Struct):
    tcb_level: _Level
    report: _QeReport


class _Tcb(Struct):
    status: str
    advisory_ids: tuple[str, ...]


class _EnclaveReport(Struct):
    attributes: _Hex
    misc_select: int
    mr_enclave: _Hex
    mr_signer: _Hex
    isv_prod_id: int
    isv_svn: int
    report_data: _Hex


class _TdReport(Struct):
    tee_tcb_svn: _Hex
    mr_seam: _Hex
    mr_signer_seam: _Hex
    td_attributes: _Hex
    xfam: _Hex
    mr_td: _Hex
    mr_config_id: _Hex
    mr_owner: _Hex
    mr_owner_config: _Hex
    rt_mr0: _Hex
    rt_mr1: _Hex
    rt_mr2: _Hex
    rt_mr3: _Hex
    report_data: _Hex


class _Td15(Struct):
    base: _TdReport


class _Td15Ex(Struct):
    base: _Td15


class _Report(Struct):
    """One of them is there. A TD report 1.5 is one of 1.0 with more behind it, and the extended form one of 1.5."""

    sgx: _EnclaveReport | None = field(default=None, name="SgxEnclave")
    td10: _TdReport | None = field(default=None, name="TD10")
    td15: _Td15 | None = field(default=None, name="TD15")
    td15_ex: _Td15Ex | None = field(default=None, name="TD15Ex")


class _Told(Struct):
    """What dcap-qvl tells of a quote that it verified, as far as it is of use here."""

    tcb: _Tcb
    platform: _Platform
    qe: _Qe
    report: _Report


def authenticate(
    quote: bytes, *, collateral: DcapCollateral, now: datetime, root: bytes | None = None
) -> SgxClaims | TdxClaims:
    """What a genuine quote (SGX version 3, TDX version 4 or 5, at most 32 KiB) says, and how Intel judges its platform.

    ``root``: the DER of another root certificate than Intel's, for evidence of one's own making.

    Raises:
        EvidenceError: it cannot be read as a quote, or has bytes behind its end.
        NotGenuineError: a signature, a chain or a revocation says that no genuine TEE made it.
        CollateralError: the collateral cannot be read, is not Intel's, does not hold at ``now``, or is about another
            platform: nothing can be said about the quote.
        UnacceptableError: genuine, and of a kind that no one should accept: debug, profiled, migratable, a revoked TCB,
            or one below every level that Intel lists.
    """
    read = Quote.parse(quote)
    published = Published.read(collateral)
    published.check_time(now)
    try:
        told = _verify(quote, collateral, int(now.timestamp()), root)
    except ValueError as fault:
        raise refusal(str(fault), quote=read, collateral=collateral, now=now, root=root) from None
    if bytes(told.platform.pck.pce_id) != published.pce_id:
        raise CollateralError("the TCB info is about another provisioning certification enclave (pceId)")
    if told.tcb.status not in STATUSES:
        raise UnacceptableError([f"TCB status {told.tcb.status!r}, which is not known here"])
    return _claims(told.report, _judged(told, published))


def _verify(quote: bytes, collateral: DcapCollateral, now: int, root: bytes | None) -> _Told:
    """Raises ``ValueError`` with dcap-qvl's reason."""
    try:
        material = dcap_qvl.QuoteCollateralV3(
            pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
            root_ca_crl=collateral.root_ca_crl,
            pck_crl=collateral.pck_crl,
            tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
            tcb_info=collateral.tcb_info,
            tcb_info_signature=collateral.tcb_info_signature,
            qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
            qe_identity=collateral.qe_identity,
            qe_identity_signature=collateral.qe_identity_signature,
        )
        rules = dcap_qvl.QuotePolicy.claims_only(now)
        text = dcap_qvl.QuoteVerifier(root).verify_with_policy(quote, material, now, rules).to_json()
    except BaseException as fault:
        # What Rust calls a panic arrives as a BaseException of a module that cannot be imported.
        if type(fault).__module__ != "pyo3_runtime":
            raise
        raise NotGenuineError("no genuine quote, or no genuine collateral: its verifier broke off") from None
    return _decoded(text)


def _decoded(text: str) -> _Told:
    try:
        return msgspec.json.decode(text, type=_Told)
    except msgspec.DecodeError:
        raise AttestationError(_NOT_UNDERSTOOD) from None


def _judged(told: _Told, published: Published) -> DcapTcb:
    pck, levels = told.platform.pck, (told.platform.tcb_level, told.qe.tcb_level)
    instance = pck.platform_instance_id
    return DcapTcb(
        status=told.tcb.status,
        advisories=tuple(sorted({*told.tcb.advisory_ids, *(one for level in levels for one in level.advisory_ids)})),
        tcb_date=min(level.tcb_date for level in levels),
        eval_number=published.eval_number,
        collateral_issued=published.issued,
        collateral_expires=published.expires,
        fmspc=bytes(pck.fmspc),
        ppid=bytes(pck.ppid),
        platform_instance_id=None if instance is None else bytes(instance),
        cpu_svn=bytes(pck.cpu_svn),
        pce_svn=pck.pce_svn,
        qe_isv_svn=told.qe.report.isv_svn,
    )


def _claims(report: _Report, tcb: DcapTcb) -> SgxClaims | TdxClaims:
    if report.sgx:
        return _sgx(report.sgx, tcb)
    td15 = report.td15_ex.base if report.td15_ex else report.td15
    body = td15.base if td15 else report.td10
    if body is None:
        raise AttestationError(_NOT_UNDERSTOOD)
    return _tdx(body, tcb)


def _sgx(body: _EnclaveReport, tcb: DcapTcb) -> SgxClaims:
    attributes = bytes.fromhex(body.attributes)
    return SgxClaims(
        report_data=bytes.fromhex(body.report_data),
        mr_enclave=bytes.fromhex(body.mr_enclave),
        mr_signer=bytes.fromhex(body.mr_signer),
        isv_prod_id=body.isv_prod_id,
        isv_svn=body.isv_svn,
        attributes=attributes,
        misc_select=body.misc_select,
        debug=bool(attributes[0] & _SGX_DEBUG),
        tcb=tcb,
    )


def _tdx(body: _TdReport, tcb: DcapTcb) -> TdxClaims:
    fields = {name: bytes.fromhex(value) for name, value in msgspec.structs.asdict(body).items()}
    return TdxClaims(**fields, debug=bool(fields["td_attributes"][0] & _TD_DEBUG), tcb=tcb)
