"""The reference: which software on which TEE is acceptable. ``cloister.attest.appraisal`` holds claims against it.

A reference is a tuple of entries, any one of which will do. Nothing is implicitly "any": what an entry does not check,
it says. Rotation is two entries that overlap. No entry can allow debugging, migration, or a VMPL other than 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Final, Literal, TypeAlias

from cloister.attest.evidence import Tee
from cloister.attest.tcb import SnpTcb

Any: TypeAlias = Literal["any"]
Values: TypeAlias = frozenset[bytes] | Any
"""The acceptable values of a field, or the word ``any``."""

Platforms: TypeAlias = frozenset[str] | Any
"""The acceptable machines: ``ppid:``, ``platform_instance_id:``, ``chip_id:`` or ``simulated:``, then hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapFloor:
    """How up to date an SGX or TDX platform has to be, as Intel's collateral judges it."""

    allowed_status: frozenset[str]
    allowed_advisories: frozenset[str] | Any
    """Each advisory of the platform has to be among them."""
    min_eval_number: int
    """The least ``tcbEvaluationDataNumber`` of the collateral."""
    max_collateral_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxEntry:
    """Acceptable SGX enclaves."""

    tee: ClassVar[Tee] = "sgx"
    name: str
    mr_enclave: Values
    mr_signer: Values
    isv_prod_id: int | Any
    min_isv_svn: int
    tcb: DcapFloor
    platforms: Platforms


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxEntry:
    """Acceptable trust domains."""

    tee: ClassVar[Tee] = "tdx"
    name: str
    mr_td: Values
    rt_mr0: Values
    rt_mr1: Values
    rt_mr2: Values
    rt_mr3: Values
    mr_config_id: Values
    mr_owner: Values
    mr_owner_config: Values
    min_tee_tcb_svn: bytes
    """16 bytes, compared one by one; zeros where nothing is asked for beyond Intel's judgement."""
    tcb: DcapFloor
    platforms: Platforms


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEntry:
    """Acceptable SEV-SNP guests."""

    tee: ClassVar[Tee] = "snp"
    name: str
    measurement: Values
    host_data: Values
    id_key_digest: Values
    author_key_digest: Values
    min_guest_svn: int
    min_tcb: Mapping[str, SnpTcb]
    """For each acceptable product (``Milan``, ``Genoa``, ``Turin``) the least committed, launch and reported TCB."""
    allow_smt: bool
    require_single_socket: bool
    signers: frozenset[str]
    """``vcek``, ``vlek`` or both."""
    max_collateral_age: timedelta | None
    """Of AMD's CRL; None with ``unsafe_no_revocation``."""
    unsafe_no_revocation: bool
    platforms: Platforms


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEntry:
    """Acceptable simulated TEEs, which prove nothing."""

    tee: ClassVar[Tee] = "simulated"
    name: str
    measurement: Values
    min_svn: int
    platforms: Platforms


Entry: TypeAlias = SgxEntry | TdxEntry | SnpEntry | SimulatedEntry
Reference: TypeAlias = tuple[Entry, ...]

MEASURED: Final[Mapping[Tee, tuple[str, ...]]] = {
    "sgx": ("mr_enclave", "mr_signer"),
    "tdx": ("mr_td",),
    "snp": ("measurement",),
    "simulated": ("measurement",),
}
"""For each TEE the fields that name the software, the most exact first."""
