"""The reference: which software on which TEE is acceptable. ``cloister.attest.appraisal`` holds claims against it.

A reference is a tuple of entries, any one of which will do. Nothing is implicitly "any": what an entry does not check,
it says. Rotation is two entries that overlap. No entry can allow debugging, migration, or a VMPL other than 0.

The types say what a field may hold. Both readers keep to them: the one of files that people write takes its bounds from
here (``reference_toml``), and the one of encoded charters gives them to ``msgspec`` (``cloister.charter.encoding``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from msgspec import Meta

from cloister.attest.evidence import Tee
from cloister.attest.tcb import SnpTcb
from cloister.wire.text import is_visible

LIST_ITEMS: Final = 1024
ENTRIES: Final = 64
"""The most entries that a reference may have."""

MAX_AGE: Final = timedelta(days=3650)
FMC_PRODUCT: Final = "Turin"
"""The product whose TCB has an ``fmc``."""

Any: TypeAlias = Literal["any"]
U16: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
EvalNumber: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 31)]
Svn16: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
EntryName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]

_Some: Final = Meta(min_length=1, max_length=LIST_ITEMS)
_Sha256: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Sha384: TypeAlias = Annotated[bytes, Meta(min_length=48, max_length=48)]
Values: TypeAlias = frozenset[bytes] | Any
"""The acceptable values of a field, or the word ``any``."""

Values32: TypeAlias = Annotated[frozenset[_Sha256], _Some] | Any
Values48: TypeAlias = Annotated[frozenset[_Sha384], _Some] | Any

Platforms: TypeAlias = frozenset[str] | Any
"""The acceptable machines: ``ppid:``, ``platform_instance_id:``, ``chip_id:`` or ``simulated:``, then hexadecimal; not
zeros, which stand for an id that is hidden."""

DCAP_PLATFORM: Final = r"^(ppid|platform_instance_id):(?!0+\Z)[0-9a-f]{32}\Z"
SNP_PLATFORM: Final = r"^chip_id:(?!0+\Z)[0-9a-f]{128}\Z"
SIMULATED_PLATFORM: Final = r"^simulated:(?!0+\Z)[0-9a-f]{64}\Z"
_DcapPlatforms: TypeAlias = Annotated[frozenset[Annotated[str, Meta(pattern=DCAP_PLATFORM)]], _Some] | Any
_SnpPlatforms: TypeAlias = Annotated[frozenset[Annotated[str, Meta(pattern=SNP_PLATFORM)]], _Some] | Any
_SimulatedPlatforms: TypeAlias = Annotated[frozenset[Annotated[str, Meta(pattern=SIMULATED_PLATFORM)]], _Some] | Any

Status: TypeAlias = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""What Intel may say of a platform's TCB. ``Revoked`` is not among them: nothing can allow it."""

ADVISORY: Final = r"^INTEL-[A-Z]{2,8}-[0-9]{3,8}\Z"
_Advisories: TypeAlias = Annotated[frozenset[Annotated[str, Meta(pattern=ADVISORY)]], Meta(max_length=LIST_ITEMS)] | Any
Product: TypeAlias = Literal["Milan", "Genoa", "Turin"]
Signer: TypeAlias = Literal["vcek", "vlek"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapFloor:
    """How up to date an SGX or TDX platform has to be, as Intel's collateral judges it."""

    allowed_status: Annotated[frozenset[Status], _Some]
    allowed_advisories: _Advisories
    """Each advisory of the platform has to be among them."""
    min_eval_number: EvalNumber
    """The least ``tcbEvaluationDataNumber`` of the collateral."""
    max_collateral_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxEntry:
    """Acceptable SGX enclaves."""

    tee: ClassVar[Tee] = "sgx"
    name: EntryName
    mr_enclave: Values32
    mr_signer: Values32
    isv_prod_id: U16 | Any
    min_isv_svn: U16
    tcb: DcapFloor
    platforms: _DcapPlatforms


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxEntry:
    """Acceptable trust domains."""

    tee: ClassVar[Tee] = "tdx"
    name: EntryName
    mr_td: Values48
    rt_mr0: Values48
    rt_mr1: Values48
    rt_mr2: Values48
    rt_mr3: Values48
    mr_config_id: Values48
    mr_owner: Values48
    mr_owner_config: Values48
    min_tee_tcb_svn: Svn16
    """16 bytes, compared one by one; zeros where nothing is asked for beyond Intel's judgement."""
    tcb: DcapFloor
    platforms: _DcapPlatforms


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEntry:
    """Acceptable SEV-SNP guests."""

    tee: ClassVar[Tee] = "snp"
    name: EntryName
    measurement: Values48
    host_data: Values32
    id_key_digest: Values48
    author_key_digest: Values48
    min_guest_svn: U32
    min_tcb: Annotated[Mapping[Product, SnpTcb], Meta(min_length=1)]
    """For each acceptable product (``Milan``, ``Genoa``, ``Turin``) the least committed, launch and reported TCB."""
    allow_smt: bool
    require_single_socket: bool
    signers: Annotated[frozenset[Signer], _Some]
    """``vcek``, ``vlek`` or both."""
    max_collateral_age: timedelta | None
    """Of AMD's CRL; None with ``unsafe_no_revocation``."""
    unsafe_no_revocation: bool
    platforms: _SnpPlatforms


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEntry:
    """Acceptable simulated TEEs, which prove nothing."""

    tee: ClassVar[Tee] = "simulated"
    name: EntryName
    measurement: Values48
    min_svn: U32
    platforms: _SimulatedPlatforms


Entry: TypeAlias = SgxEntry | TdxEntry | SnpEntry | SimulatedEntry
Reference: TypeAlias = tuple[Entry, ...]

MEASURED: Final[Mapping[Tee, tuple[str, ...]]] = {
    "sgx": ("mr_enclave", "mr_signer"),
    "tdx": ("mr_td",),
    "snp": ("measurement",),
    "simulated": ("measurement",),
}
"""For each TEE the fields that name the software, the most exact first."""


def faults_among(entries: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    """What is wrong with the names of entries, each fault with the number of the entry."""
    names: set[str] = set()
    for index, entry in enumerate(entries):
        if not (entry.name.strip() and is_visible(entry.name)):
            yield index, "must be a text of printable characters"
        if entry.name in names:
            yield index, "another entry has this name"
        if index == ENTRIES:
            yield index, f"one entry too many: there may be {ENTRIES}"
        names.add(entry.name)
