"""What a verdict does not prove: the assumptions that are left when every check has passed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from typing import Final

from cloister.attest.evidence import Tee
from cloister.attest.facts import Facts
from cloister.attest.reference import MEASURED, Entry, SnpEntry

_SIMULATED: Final = (
    "The TEE is simulated: anyone can make this evidence, with any measurement in it. It rehearses the procedure and "
    "proves nothing about what runs."
)
_PHYSICAL: Final = (
    "That nobody tampered with the machine itself. Whoever holds it and attacks its chip or memory bus can take out "
    "the keys that sign evidence, and then forge any of it."
)
_SIDE_CHANNELS: Final = (
    "That nothing leaks beside the front door: what runs on the same processor, or watches its memory accesses, its "
    "timing and its power, may learn something of what is computed."
)
_SOFTWARE: Final = (
    "That the software is right. The measurement says which software runs, not that it has no faults: whoever put the "
    "measurement in the charter vouches for that."
)
_AVAILABILITY: Final = (
    "That it goes on running, or answers in time. The operator can stop it, delay it, or cut its network, and controls "
    "the clock that it sees."
)
_CHARTER: Final = (
    "That the members signed the charter, or that it is the newest: its digest is what was compared. "
    "`cloister charter check` looks at signatures."
)
_LATER: Final = "What runs there later. It holds for the connection on which it was proved, and is to be proved anew."
_MAKERS: Final[dict[Tee, str]] = {
    "sgx": "That Intel is honest: its root key vouches for the evidence.",
    "tdx": "That Intel is honest: its root key vouches for the evidence.",
    "snp": "That AMD is honest: its root key vouches for the evidence.",
}
_ANY: Final = {
    "platforms": "Which machine it is: the entry allows any platform, also one that an attacker holds in hand.",
    "allowed_advisories": "That known weaknesses are closed: the entry allows any advisory.",
}

_WHEN: Final = "When it was made, and for whom: there is no nonce of yours in it, so it may be old, or another's."


def caveats(
    facts: Facts | None, *, entry: Entry | None = None, charter: bool = False, asked: bool = False, now: datetime
) -> Iterator[str]:
    """The sentences under "What this does not prove": the gravest first.

    ``charter``: whether it was held against one. ``asked``: whether it answers a nonce of the verifier's.
    """
    if facts is not None and facts.tee == "simulated":
        yield _SIMULATED
    if entry is not None:
        yield from _left_open(entry)
    if facts is not None:
        yield from _tcb(facts, now)
    if charter:
        yield _CHARTER
    if facts is not None and facts.tee in _MAKERS:
        yield _MAKERS[facts.tee]
    yield from (_PHYSICAL, _SIDE_CHANNELS, _SOFTWARE, _AVAILABILITY, _LATER if asked else _WHEN)


def _left_open(entry: Entry) -> Iterator[str]:
    """What the entry says "any" to, and its warnings: each is spelled out."""
    if all(getattr(entry, name) == "any" for name in MEASURED[entry.tee]):
        yield "Which software runs: the entry allows any (unsafe_any_software)."
    floor = getattr(entry, "tcb", None)
    for holder in (entry,) if floor is None else (entry, floor):
        for field in fields(holder):
            if getattr(holder, field.name) == "any":
                yield _ANY.get(field.name, f"Which {field.name} it has: the entry allows any.")
    if isinstance(entry, SnpEntry):
        if entry.unsafe_no_revocation:
            yield "That its signer was not revoked: the entry does without AMD's CRL (unsafe_no_revocation)."
        if entry.allow_smt:
            yield "That no other guest shares a core with it: the entry allows simultaneous multithreading."


def _tcb(facts: Facts, now: datetime) -> Iterator[str]:
    status, advisories = facts.tcb.get("status"), facts.tcb.get("advisories")
    if status not in (None, "UpToDate"):
        listed = f" ({', '.join(advisories)})" if isinstance(advisories, list) and advisories else ""
        yield f"That the platform has every fix and setting that its maker asks for: its status is {status}{listed}."
    if facts.collateral_issued is not None:
        days = max((now - facts.collateral_issued).days, 0)
        yield (
            f"What the maker published after {facts.collateral_issued:%Y-%m-%d %H:%M} UTC, when the collateral used "
            f"here was issued ({days} {'day' if days == 1 else 'days'} ago): what was revoked since then passes."
        )
