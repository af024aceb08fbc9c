"""An owner's own floors: what its node asks for beyond the charter. They can only be stricter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cloister.attest.appraisal import tightened
from cloister.attest.reference import Reference, SimulatedEntry, SnpEntry
from cloister.charter.charter import Charter
from cloister.errors import CharterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """One owner's limits; None where the charter's is enough. Each means what its namesake in ``Limits`` does."""

    floor: int | None = None
    largest_share: float | None = None
    clip: float | None = None
    rounds: int | None = None
    min_examples: int | None = None
    min_batch: int | None = None
    max_s: int | None = None
    """The longest time that a job may give owners for a round, in seconds; a charter has one for each job."""
    max_collateral_age: timedelta | None = None
    """Of what TEEs are judged by; stricter than that of every entry in the charter that has a longer one."""


@dataclass(frozen=True, slots=True)
class PrivacyBudget:
    """What the rounds with one data set may cost each of its records in all: (epsilon, delta)-differential privacy."""

    epsilon: float
    delta: float


_LEAST = ("floor", "min_examples", "min_batch")
_MOST = ("largest_share", "clip", "rounds")


def check_floors(charter: Charter, *, floors: Floors) -> None:
    """Checks that an owner's floors are at least as strict as the charter, and that they can be kept under it.

    Raises:
        CharterError: they are not; the message names each that is laxer, or that cannot be kept.
    """
    faults = [
        f"{name} = {_told(getattr(floors, name))} is laxer than the charter's {_told(getattr(charter.limits, name))}"
        for name in (*_LEAST, *_MOST)
        if _is_laxer(name, charter, floors)
    ]
    longest = _longest_age(charter.reference)
    if floors.max_collateral_age is not None and longest is not None and floors.max_collateral_age > longest:
        faults.append(f"max_collateral_age = {floors.max_collateral_age} is laxer than the charter's {longest}")
    if not faults:
        faults += _unkept(charter, floors)
    if faults:
        raise CharterError(f"the node's own floors do not fit the charter {charter.name!r}: " + "; ".join(faults))


def reference_under(charter: Charter, *, floors: Floors | None) -> Reference:
    """What an owner's node accepts: the charter's reference, with the owner's age of collateral where it is lower."""
    if floors is None or floors.max_collateral_age is None:
        return charter.reference
    return tightened(charter.reference, max_collateral_age=floors.max_collateral_age)


def _is_laxer(name: str, charter: Charter, floors: Floors) -> bool:
    own, agreed = getattr(floors, name), getattr(charter.limits, name)
    return own is not None and bool(own < agreed if name in _LEAST else own > agreed)


def _is_stricter(name: str, charter: Charter, floors: Floors) -> bool:
    own, agreed = getattr(floors, name), getattr(charter.limits, name)
    return own is not None and bool(own != agreed)


def _unkept(charter: Charter, floors: Floors) -> list[str]:
    limits = charter.limits
    faults: list[str] = []
    floor = limits.floor if floors.floor is None else floors.floor
    share = limits.largest_share if floors.largest_share is None else floors.largest_share
    if floor > len(charter.owners):
        faults.append(f"floor = {floor} is never met by the charter's {len(charter.owners)} owners")
    if len(charter.owners) * share < 1.0:
        faults.append(f"largest_share = {share:g} is never met by the charter's {len(charter.owners)} owners")
    if limits.hides == "record" and _is_stricter("clip", charter, floors):
        # The sum over all owners' records is on one grid, whose unit is a part of the clip.
        faults.append(
            "clip cannot be kept under a charter whose noise hides records: all their gradients are clipped alike"
        )
    if limits.interactive:
        # There the aggregator alone decides what a researcher may get, by the charter and nothing else.
        stricter = [name for name in (*_LEAST, *_MOST) if _is_stricter(name, charter, floors)]
        if stricter:
            faults.append(f"{' and '.join(stricter)} cannot be kept under a charter that is interactive")
    return faults


def _longest_age(reference: Reference) -> timedelta | None:
    """The longest age that an entry allows its collateral; None where one allows any, or none needs collateral."""
    ages: list[timedelta] = []
    for entry in reference:
        if isinstance(entry, SimulatedEntry):
            continue
        age = entry.max_collateral_age if isinstance(entry, SnpEntry) else entry.tcb.max_collateral_age
        if age is None:
            return None
        ages.append(age)
    return max(ages, default=None)


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
