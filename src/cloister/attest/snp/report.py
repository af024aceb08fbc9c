"""The SEV-SNP attestation report, byte by byte.

Source: AMD "SEV Secure Nested Paging Firmware ABI Specification", document 56860, table "ATTESTATION_REPORT", versions
2 to 5; everything is little-endian. Field names are the specification's. Nothing is judged here but the form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from cloister.attest.tcb import SnpTcb
from cloister.errors import EvidenceError

Product: TypeAlias = Literal["Milan", "Genoa", "Turin"]
PRODUCTS: Final[tuple[Product, ...]] = get_args(Product)

REPORT_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
"""The signature is over these; it comes after them."""

VCEK: Final = 0
VLEK: Final = 1
"""``signing_key``: the chip's own key, and the key that AMD lends to a cloud provider. 7 is none."""

_SCALAR_BYTES: Final = 72
_POLICY_SMT: Final = 1 << 16
_POLICY_ONE: Final = 1 << 17
_POLICY_MIGRATE_MA: Final = 1 << 18
_POLICY_DEBUG: Final = 1 << 19
_POLICY_SINGLE_SOCKET: Final = 1 << 20
_POLICY_BITS: Final = 26

_TCB_VERSION: Final[dict[Product, tuple[str | None, ...]]] = {
    "Milan": ("bl", "tee", None, None, None, None, "snp", "ucode"),
    "Genoa": ("bl", "tee", None, None, None, None, "snp", "ucode"),
    "Turin": ("fmc", "bl", "tee", "snp", None, None, None, "ucode"),
}
"""What each byte of a TCB_VERSION means (table "TCB_VERSION"); None is reserved."""


class Cpuid(NamedTuple):
    """CPUID Fn0000_0001 of the chip: combined family, combined model, stepping."""

    family: int
    model: int
    stepping: int

    @property
    def product(self) -> Product | None:
        """The product whose keys the chip has; None for one that is not known here."""
        match self.family, self.model >> 4:
            case 0x19, 0x0:
                return "Milan"
            case 0x19, (0x1 | 0xA):  # 0xA0 to 0xAF: Bergamo and Siena, which have Genoa's keys
                return "Genoa"
            case 0x1A, _ if self.model <= 0x11:
                return "Turin"
        return None


class Version(NamedTuple):
    """Of the firmware."""

    major: int
    minor: int
    build: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The fields of a report. ``r`` and ``s`` are its ECDSA signature's, ``signed`` the bytes that it is over."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: Cpuid | None
    """From version 3 on."""
    chip_id: bytes
    committed_tcb: bytes
    current_version: Version
    committed_version: Version
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signed: bytes
    r: int
    s: int

    @property
    def smt(self) -> bool:
        """Whether the guest allows simultaneous multithreading."""
        return bool(self.policy & _POLICY_SMT)

    @property
    def migratable(self) -> bool:
        """Whether a migration agent may move the guest, and so hold its keys."""
        return bool(self.policy & _POLICY_MIGRATE_MA)

    @property
    def debug(self) -> bool:
        """Whether the host may read and write the guest's memory."""
        return bool(self.policy & _POLICY_DEBUG)

    @property
    def single_socket(self) -> bool:
        """Whether the guest runs on one socket only."""
        return bool(self.policy & _POLICY_SINGLE_SOCKET)

    @property
    def masked(self) -> bool:
        """Whether the host hides which chip this is."""
        return not any(self.chip_id)

    @classmethod
    def parse(cls, data: bytes) -> Report:
        """The report in ``data``, exactly 1184 bytes.

        Raises:
            EvidenceError: it is none; the message lists everything that is wrong with its form.
        """
        if len(data) != REPORT_BYTES:
            raise EvidenceError(f"an SEV-SNP report has {REPORT_BYTES} bytes, and this has {len(data)}")
        faults = list(_faults(data))
        if faults:
            raise EvidenceError("no SEV-SNP report that can be read: " + "; ".join(faults))
        version, key_info = _number(data, 0x00, 4), _number(data, 0x48, 4)
        return cls(
            version=version,
            guest_svn=_number(data, 0x04, 4),
            policy=_number(data, 0x08, 8),
            family_id=data[0x10:0x20],
            image_id=data[0x20:0x30],
            vmpl=_number(data, 0x30, 4),
            current_tcb=data[0x38:0x40],
            platform_info=_number(data, 0x40, 8),
            author_key_en=bool(key_info & 1),
            mask_chip_key=bool(key_info & 2),
            signing_key=key_info >> 2,
            report_data=data[0x50:0x90],
            measurement=data[0x90:0xC0],
            host_data=data[0xC0:0xE0],
            id_key_digest=data[0xE0:0x110],
            author_key_digest=data[0x110:0x140],
            report_id=data[0x140:0x160],
            report_id_ma=data[0x160:0x180],
            reported_tcb=data[0x180:0x188],
            cpuid=Cpuid(*data[0x188:0x18B]) if version >= 3 else None,
            chip_id=data[0x1A0:0x1E0],
            committed_tcb=data[0x1E0:0x1E8],
            current_version=Version(*data[0x1EA:0x1E7:-1]),
            committed_version=Version(*data[0x1EE:0x1EB:-1]),
            launch_tcb=data[0x1F0:0x1F8],
            launch_mit_vector=_number(data, 0x1F8, 8),
            current_mit_vector=_number(data, 0x200, 8),
            signed=data[:SIGNED_BYTES],
            r=_number(data, SIGNED_BYTES, _SCALAR_BYTES),
            s=_number(data, SIGNED_BYTES + _SCALAR_BYTES, _SCALAR_BYTES),
        )


def components(product: Product) -> tuple[str, ...]:
    """The components of this product's TCB, as ``SnpTcb`` names them."""
    return tuple(name for name in _TCB_VERSION[product] if name)


def read_tcb(tcb: bytes, *, product: Product) -> SnpTcb:
    """A TCB_VERSION's components, in the layout of its product. Reserved bytes are left aside."""
    return SnpTcb(**{name: svn for name, svn in zip(_TCB_VERSION[product], tcb, strict=True) if name})


def reserved_set(tcb: bytes, *, product: Product) -> bool:
    """Whether a TCB_VERSION has bits where the layout of its product has none: it is another product's."""
    return any(svn for name, svn in zip(_TCB_VERSION[product], tcb, strict=True) if not name)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _faults(data: bytes) -> Iterator[str]:
    version, policy, key_info = _number(data, 0x00, 4), _number(data, 0x08, 8), _number(data, 0x48, 4)
    if not 2 <= version <= 5:
        yield f"its version is {version}, and 2 to 5 are known"
    if _number(data, 0x34, 4) != 1:
        yield "its signature_algo is not 1, ECDSA P-384 with SHA-384"
    if not policy & _POLICY_ONE or policy >> _POLICY_BITS:
        yield "its guest policy has a reserved bit that is not as it must be"
    if key_info >> 5:
        yield "its key information has reserved bits set"
    for start, end in _must_be_zero(version):
        if any(data[start:end]):
            yield f"its reserved bytes {start:#x} to {end:#x} are not zero"


def _must_be_zero(version: int) -> tuple[tuple[int, int], ...]:
    return (
        (0x4C, 0x50),
        (0x188 if version < 3 else 0x18B, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x1F8 if version < 5 else 0x208, SIGNED_BYTES),
        (SIGNED_BYTES + 2 * _SCALAR_BYTES, REPORT_BYTES),
    )
