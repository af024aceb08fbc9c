"""Facts: what evidence states, sorted for a reader into software, TCB and platform. Plain values, ready for JSON.

Names are the specifications' own (see ``claims``). Bytes are hexadecimal digits, so that they can be held against a
charter; times are ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from cloister.attest.claims import Claims, DcapTcb, SgxClaims, SimulatedClaims, SnpClaims, TdxClaims
from cloister.attest.evidence import Tee

Fact: TypeAlias = "str | int | bool | list[str] | dict[str, int | None] | None"
Section: TypeAlias = Mapping[str, Fact]

MAKERS: Final[Mapping[Tee, str]] = {
    "sgx": "Intel SGX",
    "tdx": "Intel TDX",
    "snp": "AMD SEV-SNP",
    "simulated": "simulated TEE (proves nothing)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What some evidence states. Whether it is true is not said here."""

    tee: Tee
    software: Section
    """What was measured, and how it was started."""
    tcb: Section
    """Versions of what lies below the software and, for SGX and TDX, how Intel judges them."""
    platform: Section
    """Which machine."""
    report_data: bytes
    """64 bytes that the software had signed."""
    collateral_issued: datetime | None = None
    """When the oldest part of what the maker publishes was issued; None: none was looked at."""
    collateral_expires: datetime | None = None
    notes: tuple[str, ...] = field(default=())
    """What a reader of unverified evidence should know about its form, a sentence each."""


def facts(claims: Claims) -> Facts:
    """The facts in authenticated claims."""
    match claims:
        case SgxClaims():
            return _sgx(claims)
        case TdxClaims():
            return _tdx(claims)
        case SnpClaims():
            return _snp(claims)
        case SimulatedClaims():
            return _simulated(claims)


def stated(values: Any, names: str) -> dict[str, Any]:
    """The named attributes of ``values``, bytes as hexadecimal digits."""
    found = {name: getattr(values, name) for name in names.split()}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}


SGX_SOFTWARE: Final = "mr_enclave mr_signer isv_prod_id isv_svn debug attributes misc_select"
TDX_SOFTWARE: Final = "mr_td rt_mr0 rt_mr1 rt_mr2 rt_mr3 mr_config_id mr_owner mr_owner_config debug td_attributes xfam"
SNP_SOFTWARE: Final = (
    "measurement host_data id_key_digest author_key_digest family_id image_id guest_svn debug migratable vmpl smt"
    " single_socket policy"
)
TDX_MODULE: Final = "mr_seam mr_signer_seam tee_tcb_svn"


def _sgx(claims: SgxClaims) -> Facts:
    return _dcap(claims, software=stated(claims, SGX_SOFTWARE), module={})


def _tdx(claims: TdxClaims) -> Facts:
    return _dcap(claims, software=stated(claims, TDX_SOFTWARE), module=stated(claims, TDX_MODULE))


def _dcap(claims: SgxClaims | TdxClaims, *, software: Section, module: Section) -> Facts:
    tcb: DcapTcb = claims.tcb
    return Facts(
        tee=claims.tee,
        software=software,
        tcb={
            "status": tcb.status,
            "advisories": list(tcb.advisories),
            "tcb_date": tcb.tcb_date.isoformat(),
            **stated(tcb, "eval_number cpu_svn pce_svn qe_isv_svn"),
            **module,
        },
        platform=stated(tcb, "fmspc ppid platform_instance_id"),
        report_data=claims.report_data,
        collateral_issued=tcb.collateral_issued,
        collateral_expires=tcb.collateral_expires,
    )


def _snp(claims: SnpClaims) -> Facts:
    versions = {name: asdict(getattr(claims, name)) for name in ("reported", "committed", "launch", "current")}
    return Facts(
        tee=claims.tee,
        software=stated(claims, SNP_SOFTWARE),
        tcb={**versions, "revocation": "unknown: no CRL" if claims.crl_issued is None else "checked"},
        platform=stated(claims, "product signer csp_id chip_id platform_info"),
        report_data=claims.report_data,
        collateral_issued=claims.crl_issued,
        collateral_expires=claims.crl_expires,
    )


def _simulated(claims: SimulatedClaims) -> Facts:
    return Facts(
        tee=claims.tee,
        software=stated(claims, "measurement svn debug"),
        tcb={},
        platform=stated(claims, "platform"),
        report_data=claims.report_data,
    )
