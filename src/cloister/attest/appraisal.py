"""The appraisal of claims against a reference: whether an entry accepts them and, if none does, all that fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Final

from cloister.attest.claims import Claims, DcapTcb, SgxClaims, SimulatedClaims, SnpClaims, TdxClaims
from cloister.attest.evidence import Tee
from cloister.attest.reference import (
    DcapFloor,
    Entry,
    Platforms,
    Reference,
    SgxEntry,
    SimulatedEntry,
    SnpEntry,
    TdxEntry,
    Values,
)
from cloister.attest.tcb import SnpTcb
from cloister.errors import UnacceptableError

_CALLED: Final[Mapping[Tee, str]] = {
    "sgx": "SGX enclaves",
    "tdx": "TDX trust domains",
    "snp": "SEV-SNP guests",
    "simulated": "simulated TEEs",
}


def appraise(claims: Claims, *, reference: Reference, now: datetime) -> Entry:
    """The first entry that accepts the claims, at a time with its offset.

    Raises:
        UnacceptableError: there is none; ``failures`` lists every failed check of every entry of this kind of TEE, each
            with the entry's name before it.
    """
    failures: list[str] = []
    named = False
    for entry in reference:
        # The classes decide: no value of any field makes an entry judge another TEE's claims.
        match entry, claims:
            case SgxEntry(), SgxClaims():
                found = list(_sgx(entry, claims, now))
            case TdxEntry(), TdxClaims():
                found = list(_tdx(entry, claims, now))
            case SnpEntry(), SnpClaims():
                found = list(_snp(entry, claims, now))
            case SimulatedEntry(), SimulatedClaims():
                found = list(_simulated(entry, claims))
            case _:
                continue
        if not found:
            return entry
        named = True
        failures += [f"{entry.name}: {failure}" for failure in found]
    raise UnacceptableError(failures if named else [f"no entry of the reference names {_CALLED[claims.tee]}"])


def tightened(reference: Reference, *, max_collateral_age: timedelta) -> Reference:
    """The same reference with no collateral older than this accepted, and none without collateral."""
    return tuple(_tightened(entry, max_collateral_age) for entry in reference)


def _tightened(entry: Entry, age: timedelta) -> Entry:
    match entry:
        case SgxEntry() | TdxEntry():
            least = min(age, entry.tcb.max_collateral_age)
            return replace(entry, tcb=replace(entry.tcb, max_collateral_age=least))
        case SnpEntry():
            least = min(age, entry.max_collateral_age or age)
            return replace(entry, max_collateral_age=least, unsafe_no_revocation=False)
        case SimulatedEntry():
            return entry


def _sgx(entry: SgxEntry, claims: SgxClaims, now: datetime) -> Iterator[str]:
    if claims.debug:
        yield "it is a debug enclave: its host can read and change all that it holds"
    yield from _measured(entry, claims, ("mr_enclave", "mr_signer"))
    if entry.isv_prod_id not in ("any", claims.isv_prod_id):
        yield f"isv_prod_id is {claims.isv_prod_id}, not {entry.isv_prod_id}"
    yield from _at_least("isv_svn", claims.isv_svn, entry.min_isv_svn)
    yield from _dcap(entry.tcb, claims.tcb, now)
    yield from _machine(entry.platforms, _dcap_platforms(claims.tcb))


def _tdx(entry: TdxEntry, claims: TdxClaims, now: datetime) -> Iterator[str]:
    if claims.debug:
        yield "it is a debug trust domain: its host can read and change all that it holds"
    registers = ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "mr_config_id", "mr_owner", "mr_owner_config")
    yield from _measured(entry, claims, registers)
    low = [
        index
        for index, least in enumerate(entry.min_tee_tcb_svn)
        if index >= len(claims.tee_tcb_svn) or claims.tee_tcb_svn[index] < least
    ]
    if low:
        yield (
            f"tee_tcb_svn is {claims.tee_tcb_svn.hex()}, below {entry.min_tee_tcb_svn.hex()}"
            f" in component(s) {', '.join(map(str, low))}"
        )
    yield from _dcap(entry.tcb, claims.tcb, now)
    yield from _machine(entry.platforms, _dcap_platforms(claims.tcb))


def _snp(entry: SnpEntry, claims: SnpClaims, now: datetime) -> Iterator[str]:
    if claims.debug:
        yield "its guest policy allows debugging: its host can read and change all that it holds"
    if claims.migratable:
        yield "its guest policy allows a migration agent, which can take the guest elsewhere"
    if claims.vmpl != 0:
        yield f"the report was asked for at VMPL {claims.vmpl}, not at 0"
    yield from _measured(entry, claims, ("measurement", "host_data", "id_key_digest", "author_key_digest"))
    yield from _at_least("guest_svn", claims.guest_svn, entry.min_guest_svn)
    if claims.smt and not entry.allow_smt:
        yield "its guest policy allows simultaneous multithreading (allow_smt is false)"
    if entry.require_single_socket and not claims.single_socket:
        yield "its guest policy allows more than one socket (require_single_socket is true)"
    if claims.signer not in entry.signers:
        yield f"the report is signed by a {claims.signer.upper()}, not by one of: {_listed(entry.signers)}"
    yield from _snp_tcb(entry, claims)
    if claims.crl_issued is None:
        if not entry.unsafe_no_revocation:
            yield "no CRL was at hand, so that nobody knows whether its signer was revoked"
    elif entry.max_collateral_age is not None:
        yield from _age("the CRL", claims.crl_issued, entry.max_collateral_age, now)
    found = [] if claims.chip_id is None else [f"chip_id:{claims.chip_id.hex()}"]
    yield from _machine(entry.platforms, found)


def _simulated(entry: SimulatedEntry, claims: SimulatedClaims) -> Iterator[str]:
    if claims.debug:
        yield "it says that it is being debugged"
    yield from _measured(entry, claims, ("measurement",))
    yield from _at_least("svn", claims.svn, entry.min_svn)
    yield from _machine(entry.platforms, [f"simulated:{claims.platform.hex()}"])


def _measured(entry: Entry, claims: Claims, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        accepted: Values = getattr(entry, name)
        found: bytes = getattr(claims, name)
        if accepted != "any" and found not in accepted:
            yield f"{name} is {found.hex()}, which is not listed"


def _at_least(name: str, found: int, least: int) -> Iterator[str]:
    if found < least:
        yield f"{name} is {found}, below {least}"


def _dcap(floor: DcapFloor, tcb: DcapTcb, now: datetime) -> Iterator[str]:
    if tcb.status not in floor.allowed_status:
        yield f"its TCB status is {tcb.status}, not one of: {_listed(floor.allowed_status)}"
    if floor.allowed_advisories != "any":
        unknown = set(tcb.advisories) - floor.allowed_advisories
        if unknown:
            yield f"these advisories apply to its platform and are not allowed: {_listed(unknown)}"
    yield from _at_least("the collateral's evaluation number", tcb.eval_number, floor.min_eval_number)
    yield from _age("its collateral", tcb.collateral_issued, floor.max_collateral_age, now)


def _snp_tcb(entry: SnpEntry, claims: SnpClaims) -> Iterator[str]:
    floor = entry.min_tcb.get(claims.product)
    if floor is None:
        yield f"the processor is a {claims.product}, not one of: {_listed(entry.min_tcb)}"
        return
    # Not the current TCB: a host can roll that one back (AMD document 56860, SEV-SNP Firmware ABI, TCB versions).
    for when in ("committed", "launch", "reported"):
        tcb: SnpTcb = getattr(claims, when)
        for component in fields(SnpTcb):
            least, found = getattr(floor, component.name), getattr(tcb, component.name)
            if least is not None and (found is None or found < least):
                yield f"the {when} TCB has {component.name} {'absent' if found is None else found}, below {least}"


def _age(what: str, issued: datetime, most: timedelta, now: datetime) -> Iterator[str]:
    if issued > now:
        yield f"{what} was issued on {issued:%Y-%m-%d %H:%M} UTC, in the future: is this clock right?"
    elif now - issued > most:
        yield f"{what} was issued on {issued:%Y-%m-%d %H:%M} UTC, {now - issued} ago; at most {most} is allowed"


def _dcap_platforms(tcb: DcapTcb) -> Iterator[str]:
    yield f"ppid:{tcb.ppid.hex()}"
    if tcb.platform_instance_id is not None:
        yield f"platform_instance_id:{tcb.platform_instance_id.hex()}"


def _machine(accepted: Platforms, found: Iterable[str]) -> Iterator[str]:
    names = list(found)
    if accepted != "any" and accepted.isdisjoint(names):
        yield f"it runs on {' or '.join(names) or 'a machine that does not say which it is'}, which is not listed"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"
