"""Claims: what authenticated evidence says, in the names of the makers' specifications. Values only; nothing is judged.

Sources: Intel SGX DCAP ECDSA Quote Library API (quote format) and Intel TDX Module specification for SGX and TDX; AMD
SEV-SNP Firmware ABI (document 56860, table "ATTESTATION_REPORT") for SEV-SNP.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias

from cloister.attest.evidence import Tee
from cloister.attest.tcb import SnpTcb


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapTcb:
    """How Intel judges the platform that signed, by the collateral that was used, and which platform it is."""

    status: str
    """``UpToDate``, ``SWHardeningNeeded``, ``ConfigurationNeeded``, ``ConfigurationAndSWHardeningNeeded``,
    ``OutOfDate`` or ``OutOfDateConfigurationNeeded``."""
    advisories: tuple[str, ...]
    """Of platform, module and quoting enclave, such as ``INTEL-SA-00615``; sorted."""
    tcb_date: datetime
    """Up to when Intel's fixes are in."""
    eval_number: int
    """``tcbEvaluationDataNumber`` of the collateral, the lower of TCB info and QE identity."""
    collateral_issued: datetime
    """The oldest of TCB info, QE identity and the PCK CA's CRL. The root's CRL comes once a year: its end bounds it."""
    collateral_expires: datetime
    fmspc: bytes
    ppid: bytes
    """The platform's provisioning id, 16 bytes."""
    platform_instance_id: bytes | None
    """16 bytes; only multi-package platforms have it."""
    cpu_svn: bytes
    pce_svn: int
    qe_isv_svn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxClaims:
    """An SGX enclave's report body."""

    tee: ClassVar[Tee] = "sgx"
    report_data: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    attributes: bytes
    misc_select: int
    debug: bool
    tcb: DcapTcb


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """A trust domain's report body (TD report 1.0, 1.5 or 1.5 extended)."""

    tee: ClassVar[Tee] = "tdx"
    report_data: bytes
    mr_td: bytes
    rt_mr0: bytes
    rt_mr1: bytes
    rt_mr2: bytes
    rt_mr3: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    tee_tcb_svn: bytes
    td_attributes: bytes
    xfam: bytes
    debug: bool
    tcb: DcapTcb


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """An SEV-SNP attestation report."""

    tee: ClassVar[Tee] = "snp"
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    family_id: bytes
    image_id: bytes
    report_id: bytes
    guest_svn: int
    policy: int
    debug: bool
    migratable: bool
    smt: bool
    """Whether the guest allows simultaneous multithreading (policy bit 16)."""
    single_socket: bool
    vmpl: int
    product: Literal["Milan", "Genoa", "Turin"]
    signer: Literal["vcek", "vlek"]
    csp_id: str | None
    """The cloud provider in a VLEK."""
    chip_id: bytes | None
    """64 bytes; None where the host masks it."""
    platform_info: int
    reported: SnpTcb
    committed: SnpTcb
    launch: SnpTcb
    current: SnpTcb
    crl_issued: datetime | None
    """When AMD issued the CRL that was looked at; None when none was at hand, so that revocation is unknown."""
    crl_expires: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedClaims:
    """What a simulated TEE says. It proves nothing: anyone can make it."""

    tee: ClassVar[Tee] = "simulated"
    report_data: bytes
    measurement: bytes
    """SHA-384, 48 bytes."""
    svn: int
    debug: bool
    platform: bytes
    """32 bytes that name the machine."""


Claims: TypeAlias = SgxClaims | TdxClaims | SnpClaims | SimulatedClaims
