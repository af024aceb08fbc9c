"""Reference entries as people write them: the ``[[software]]`` tables of a TOML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from cloister.attest.evidence import TEES
from cloister.attest.reference import (
    MEASURED,
    DcapFloor,
    Entry,
    Platforms,
    Reference,
    SgxEntry,
    SimulatedEntry,
    SnpEntry,
    TdxEntry,
)
from cloister.attest.tcb import SnpTcb
from cloister.tables import Table

ENTRIES: Final = 64
"""The most entries that a reference may have."""

NAME_CHARS: Final = 128
MAX_AGE: Final = timedelta(days=3650)

STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
"""What Intel may say of a platform's TCB. ``Revoked`` is not among them: nothing can allow it."""

PRODUCTS: Final[tuple[str, ...]] = ("Milan", "Genoa", "Turin")
_SIGNERS: Final = ("vcek", "vlek")

_PLATFORMS: Final[Mapping[str, Mapping[str, int]]] = {
    "sgx": {"ppid": 16, "platform_instance_id": 16},
    "tdx": {"ppid": 16, "platform_instance_id": 16},
    "snp": {"chip_id": 64},
    "simulated": {"simulated": 32},
}
"""For each TEE what names its machines, and how many bytes that has."""

_ADVISORY: Final = re.compile(r"INTEL-[A-Z]{2,8}-[0-9]{3,8}")


def parse(tables: list[Table]) -> Reference:
    """The reference in some tables. What is wrong with them is noted in the tables, and what is faulty left out.

    The entries come in the order of their names, since their order has no meaning.
    """
    entries: dict[str, Entry] = {}
    if len(tables) > ENTRIES:
        tables[ENTRIES].fault("name", f"one entry too many: there may be {ENTRIES}")
    for table in tables[:ENTRIES]:
        name = table.text("name", most=NAME_CHARS)
        tee = table.choice("tee", among=TEES)
        if tee is None:
            continue
        entry = _READERS[tee](table, name)
        _check_measured(table, entry)
        if name in entries:
            table.fault("name", "another entry has this name")
        entries[name] = entry
    return tuple(entries[name] for name in sorted(entries))


def _sgx(table: Table, name: str) -> SgxEntry:
    return SgxEntry(
        name=name,
        mr_enclave=table.hexes_or_any("mr_enclave", size=32),
        mr_signer=table.hexes_or_any("mr_signer", size=32),
        isv_prod_id="any" if table.says_any("isv_prod_id") else table.whole("isv_prod_id", least=0, most=0xFFFF),
        min_isv_svn=table.whole("min_isv_svn", least=0, most=0xFFFF),
        tcb=_dcap_floor(table),
        platforms=_platforms(table, "sgx"),
    )


def _tdx(table: Table, name: str) -> TdxEntry:
    svn = table.hexadecimal("min_tee_tcb_svn", size=16) if table.holds("min_tee_tcb_svn") else None
    return TdxEntry(
        name=name,
        mr_td=table.hexes_or_any("mr_td", size=48),
        rt_mr0=table.hexes_or_any("rt_mr0", size=48),
        rt_mr1=table.hexes_or_any("rt_mr1", size=48),
        rt_mr2=table.hexes_or_any("rt_mr2", size=48),
        rt_mr3=table.hexes_or_any("rt_mr3", size=48),
        mr_config_id=table.hexes_or_any("mr_config_id", size=48),
        mr_owner=table.hexes_or_any("mr_owner", size=48),
        mr_owner_config=table.hexes_or_any("mr_owner_config", size=48),
        min_tee_tcb_svn=svn or bytes(16),
        tcb=_dcap_floor(table),
        platforms=_platforms(table, "tdx"),
    )


def _snp(table: Table, name: str) -> SnpEntry:
    unchecked = table.flag("unsafe_no_revocation", default=False)
    if not unchecked:
        age: timedelta | None = table.age("max_collateral_age", most=MAX_AGE)
    else:
        age = None
        if table.holds("max_collateral_age"):
            table.fault(
                "max_collateral_age", "has no meaning beside unsafe_no_revocation = true: leave out one of them"
            )
    return SnpEntry(
        name=name,
        measurement=table.hexes_or_any("measurement", size=48),
        host_data=table.hexes_or_any("host_data", size=32),
        id_key_digest=table.hexes_or_any("id_key_digest", size=48),
        author_key_digest=table.hexes_or_any("author_key_digest", size=48),
        min_guest_svn=table.whole("min_guest_svn", least=0, most=0xFFFFFFFF),
        min_tcb=_min_tcb(table),
        allow_smt=table.flag("allow_smt"),
        require_single_socket=table.flag("require_single_socket"),
        signers=table.words("signers", among=_SIGNERS),
        max_collateral_age=age,
        unsafe_no_revocation=unchecked,
        platforms=_platforms(table, "snp"),
    )


def _simulated(table: Table, name: str) -> SimulatedEntry:
    return SimulatedEntry(
        name=name,
        measurement=table.hexes_or_any("measurement", size=48),
        min_svn=table.whole("min_svn", least=0, most=0xFFFFFFFF),
        platforms=_platforms(table, "simulated"),
    )


_READERS: Final[Mapping[str, Callable[[Table, str], Entry]]] = {
    "sgx": _sgx,
    "tdx": _tdx,
    "snp": _snp,
    "simulated": _simulated,
}


def _dcap_floor(table: Table) -> DcapFloor:
    advisories = "advisories such as INTEL-SA-00615"
    return DcapFloor(
        allowed_status=table.words("allowed_status", among=STATUSES),
        allowed_advisories="any"
        if table.says_any("allowed_advisories")
        else frozenset(
            table.texts("allowed_advisories", what=advisories, accepts=lambda text: bool(_ADVISORY.fullmatch(text)))
        ),
        min_eval_number=table.whole("min_eval_number", least=0, most=1 << 31),
        max_collateral_age=table.age("max_collateral_age", most=MAX_AGE),
    )


def _min_tcb(table: Table) -> Mapping[str, SnpTcb]:
    """The floor of each product: their numbers do not compare, so each has a table of its own."""
    products = table.words("products", among=PRODUCTS)
    floors = table.table("min_tcb")
    expected = products or filter(floors.holds, PRODUCTS)  # where the products are faulty, that is told once
    return MappingProxyType({product: _tcb(floors.table(product), product) for product in sorted(expected)})


def _tcb(table: Table, product: str) -> SnpTcb:
    names = ["bl", "tee", "snp", "ucode", *(["fmc"] if product == "Turin" else [])]
    return SnpTcb(**{name: table.whole(name, least=0, most=0xFF) for name in names})


def _platforms(table: Table, tee: str) -> Platforms:
    if table.says_any("platforms"):
        return "any"
    kinds = _PLATFORMS[tee]
    what = " or ".join(f'"{kind}:<{2 * size} hexadecimal digits>"' for kind, size in kinds.items())

    def accepts(text: str) -> bool:
        kind, _, digits = text.partition(":")
        if len(digits) != 2 * kinds.get(kind, 0) or not digits.isascii() or not digits.isalnum():
            return False
        try:
            return any(bytes.fromhex(digits))  # zeros name no machine: they stand for an id that is hidden
        except ValueError:
            return False

    found = table.texts("platforms", what=f"{what}, not zero", accepts=accepts, least=1)
    return frozenset(text.lower() for text in found)


def _check_measured(table: Table, entry: Entry) -> None:
    """At least one field has to name the software, or the entry says that none does."""
    names = MEASURED[entry.tee]
    open_to_all = all(getattr(entry, name) == "any" for name in names)
    allowed = table.flag("unsafe_any_software", default=False)
    which = " or ".join(names)
    if open_to_all and not allowed:
        table.fault(names[0], f"name the software by {which}; to accept any software, add unsafe_any_software = true")
    elif allowed and not open_to_all:
        table.fault("unsafe_any_software", f"is not so: {which} names the software; leave it out")
