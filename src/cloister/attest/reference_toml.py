"""Reference entries as people write them: the ``[[software]]`` tables of a TOML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final, get_args

from cloister.attest.evidence import TEES
from cloister.attest.reference import (
    ADVISORY,
    DCAP_PLATFORM,
    ENTRIES,
    FMC_PRODUCT,
    MAX_AGE,
    MEASURED,
    SIMULATED_PLATFORM,
    SNP_PLATFORM,
    U16,
    U32,
    DcapFloor,
    Entry,
    EntryName,
    EvalNumber,
    Platforms,
    Product,
    Reference,
    SgxEntry,
    Signer,
    SimulatedEntry,
    SnpEntry,
    Status,
    TdxEntry,
    faults_among,
)
from cloister.attest.tcb import U8, SnpTcb
from cloister.tables import Table, bounds

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
PRODUCTS: Final[tuple[Product, ...]] = get_args(Product)

_PLATFORMS: Final[Mapping[str, tuple[str, str]]] = {
    "sgx": (DCAP_PLATFORM, '"ppid:<32 hexadecimal digits>" or "platform_instance_id:<32 hexadecimal digits>"'),
    "tdx": (DCAP_PLATFORM, '"ppid:<32 hexadecimal digits>" or "platform_instance_id:<32 hexadecimal digits>"'),
    "snp": (SNP_PLATFORM, '"chip_id:<128 hexadecimal digits>"'),
    "simulated": (SIMULATED_PLATFORM, '"simulated:<64 hexadecimal digits>"'),
}
"""For each TEE what names its machines, and how a person is told."""


def parse(tables: list[Table]) -> Reference:
    """The reference in some tables. What is wrong with them is noted in the tables, and what is faulty left out.

    The entries come in the order of their names, since their order has no meaning.
    """
    found: list[tuple[Table, Entry]] = []
    for table in tables[: ENTRIES + 1]:
        name = table.text("name", most=bounds(EntryName)["most"])
        tee = table.choice("tee", among=TEES)
        if tee is None:
            continue
        entry = _READERS[tee](table, name)
        _check_measured(table, entry)
        found.append((table, entry))
    for index, text in faults_among([entry for _, entry in found]):
        if found[index][1].name:  # otherwise that is told already
            found[index][0].fault("name", text)
    return tuple(sorted((entry for _, entry in found), key=lambda entry: entry.name))


def _sgx(table: Table, name: str) -> SgxEntry:
    return SgxEntry(
        name=name,
        mr_enclave=table.hexes_or_any("mr_enclave", size=32),
        mr_signer=table.hexes_or_any("mr_signer", size=32),
        isv_prod_id="any" if table.says_any("isv_prod_id") else table.whole("isv_prod_id", **bounds(U16)),
        min_isv_svn=table.whole("min_isv_svn", **bounds(U16)),
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
        min_guest_svn=table.whole("min_guest_svn", **bounds(U32)),
        min_tcb=_min_tcb(table),
        allow_smt=table.flag("allow_smt"),
        require_single_socket=table.flag("require_single_socket"),
        signers=table.words("signers", among=get_args(Signer)),
        max_collateral_age=age,
        unsafe_no_revocation=unchecked,
        platforms=_platforms(table, "snp"),
    )


def _simulated(table: Table, name: str) -> SimulatedEntry:
    return SimulatedEntry(
        name=name,
        measurement=table.hexes_or_any("measurement", size=48),
        min_svn=table.whole("min_svn", **bounds(U32)),
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
            table.texts("allowed_advisories", what=advisories, accepts=lambda text: bool(re.match(ADVISORY, text)))
        ),
        min_eval_number=table.whole("min_eval_number", **bounds(EvalNumber)),
        max_collateral_age=table.age("max_collateral_age", most=MAX_AGE),
    )


def _min_tcb(table: Table) -> Mapping[Product, SnpTcb]:
    """The floor of each product: their numbers do not compare, so each has a table of its own."""
    products = table.words("products", among=PRODUCTS)
    floors = table.table("min_tcb")
    expected = products or filter(floors.holds, PRODUCTS)  # where the products are faulty, that is told once
    return MappingProxyType({product: _tcb(floors.table(product), product) for product in sorted(expected)})


def _tcb(table: Table, product: str) -> SnpTcb:
    names = ["bl", "tee", "snp", "ucode", *(["fmc"] if product == FMC_PRODUCT else [])]
    return SnpTcb(**{name: table.whole(name, **bounds(U8)) for name in names})


def _platforms(table: Table, tee: str) -> Platforms:
    if table.says_any("platforms"):
        return "any"
    pattern, what = _PLATFORMS[tee]

    def accepts(text: str) -> bool:
        kind, _, digits = text.partition(":")
        return bool(re.match(pattern, f"{kind}:{digits.lower()}"))

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
