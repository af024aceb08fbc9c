"""Reading charter.toml: every fault of the file is told, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast

from cloister.attest import reference_toml
from cloister.attest.reference import Reference
from cloister.charter.charter import DIGEST_BYTES, FORMAT, ROLES, Charter, Limits, Member, Metric, Noise, Role
from cloister.charter.names import MARKS, NAME_CHARS, is_name
from cloister.errors import CharterError, ConfigurationError
from cloister.tables import Table, faulty, load
from cloister.wire.peers import check_fingerprint, parse_address

MEMBERS: Final = 256
ADDRESSES: Final = 64
METRICS: Final = 64
COUNT: Final = (1 << 53) - 1
"""The greatest number of rounds, of examples, and the greatest serial."""

_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


def parse(text: str, *, source: str = "charter.toml") -> Charter:
    """The charter in a TOML text of at most 256 KiB; ``source`` is its name for messages.

    Raises:
        CharterError: the text has faults; the message lists all of them, each with its place.
    """
    try:
        data = load(text, source=source)
    except ConfigurationError as fault:
        raise CharterError(str(fault)) from None
    faults: list[str] = []
    charter = _charter(_CharterTable(data, faults=faults))
    if faults:
        raise faulty(source, faults, error=CharterError)
    return charter


class _CharterTable(Table):
    """A table with what only a charter holds."""

    def name(self, key: str) -> str:
        name = self.text(key)
        if name and not is_name(name):
            marks = " ".join(sorted(MARKS - {" "}))
            self.fault(
                key,
                f"{name!a} is no name: it starts with a letter or digit, ends with no space, has at most {NAME_CHARS}"
                f" letters, digits, spaces and {marks} only, all in their usual form (Unicode's NFKC)",
            )
        return name

    def fingerprint(self, key: str) -> str:
        what = "a key's fingerprint, as `cloister key show` prints it"
        return self.checked(key, what=what, check=check_fingerprint) or ""


def _charter(table: _CharterTable) -> Charter:
    if table.text("format") not in ("", FORMAT):
        table.fault("format", f'must be "{FORMAT}": this version reads no other')
    serial, supersedes = _line(table)
    not_before, not_after = _validity(table)
    members = _members(table)
    charter = Charter(
        name=table.name("name"),
        serial=serial,
        supersedes=supersedes,
        not_before=not_before,
        not_after=not_after,
        members=members,
        addresses=_addresses(table.table("aggregator")),
        reference=_reference(table),
        limits=_limits(table.table("limits"), owners=sum(member.role == "owner" for member in members)),
    )
    table.finish()
    return charter


def _line(table: _CharterTable) -> tuple[int, bytes | None]:
    """The place in the line of charters of one name."""
    serial = table.whole("serial", least=1, most=COUNT)
    if serial > 1:
        return serial, table.hexadecimal("supersedes", size=DIGEST_BYTES)
    if table.holds("supersedes"):
        table.fault("supersedes", "the first charter (serial 1) supersedes none: leave it out")
    return serial, None


def _validity(table: _CharterTable) -> tuple[datetime, datetime]:
    not_before, not_after = table.moment("not_before"), table.moment("not_after")
    if not_before is not None and not_after is not None and not_before >= not_after:
        table.fault("not_after", "is not later than not_before: the charter would never be valid")
    return not_before or _NEVER, not_after or _NEVER


def _members(table: _CharterTable) -> tuple[Member, ...]:
    found: list[Member] = []
    names: set[str] = set()
    keys: set[str] = set()
    children = table.tables("members")
    if not 1 <= len(children) <= MEMBERS:
        table.fault("members", f"there must be 1 to {MEMBERS} members, [[members]]")
    for child in children[:MEMBERS]:
        # A faulty role counts as an owner's, so that one mistake is told once.
        role = cast(Role, child.choice("role", among=ROLES) or "owner")
        member = Member(name=child.name("name"), role=role, key=child.fingerprint("key"))
        if member.name and member.name.casefold() in names:
            child.fault("name", "another member has this name; one organisation is one member")
        if member.key and member.key in keys:
            child.fault("key", "another member has this key; one organisation has one key, and one role")
        names.add(member.name.casefold())
        keys.add(member.key)
        found.append(member)
    return tuple(sorted(found, key=lambda member: member.name))


def _addresses(table: _CharterTable) -> tuple[str, ...]:
    def accepts(text: str) -> bool:
        try:
            return text.isprintable() and parse_address(text).port > 0
        except ConfigurationError:
            return False

    what = 'a host and a port, such as "agg.example:7443"'
    found = table.texts("addresses", what=what, accepts=accepts, least=1)
    if len(found) > ADDRESSES:
        table.fault("addresses", f"there may be {ADDRESSES} at most")
    return tuple(sorted(set(found)))


def _reference(table: _CharterTable) -> Reference:
    children = table.tables("software")
    if not children:
        table.fault("software", "is missing; name the software that may see contributions, [[software]]")
    reference = reference_toml.parse(list[Table](children))
    if len({entry.tee == "simulated" for entry in reference}) > 1:
        table.fault(
            "software", "a simulated TEE proves nothing, and stands beside no real one: make a charter of its own"
        )
    return reference


def _limits(table: _CharterTable, *, owners: int) -> Limits:
    plans = table.hexes("plans", size=DIGEST_BYTES)
    has_model = bool(plans) or table.holds("first_model")
    limits = Limits(
        floor=table.whole("floor", least=2, most=MEMBERS),
        largest_share=table.number("largest_share", above=0.0, most=1.0) or 1.0,
        clip=table.number("clip", above=0.0) or 1.0,
        noise=_noise(table),
        rounds=table.whole("rounds", least=1, most=COUNT),
        min_examples=table.whole("min_examples", least=1, most=COUNT),
        plans=plans,
        first_model=table.hexadecimal("first_model", size=DIGEST_BYTES) if has_model else None,
        metrics=_metrics(table.tables("metrics")),
        interactive=table.flag("interactive"),
    )
    if limits.floor > owners:
        table.fault("floor", f"{limits.floor} members are never together: the charter has {owners} owner(s)")
    if limits.floor * limits.largest_share < 1.0:
        least = 1.0 / limits.floor
        table.fault(
            "largest_share", f"{limits.floor} members cannot have all the weight unless it is at least {least:g}"
        )
    return limits


def _noise(table: _CharterTable) -> Noise | None:
    what = 'a table such as { mechanism = "gaussian", multiplier = 1.0 }, or the word "none"'
    child = table.table_or_word("noise", what=what, word="none")
    if child is None:
        return None
    child.choice("mechanism", among=("gaussian",))
    return Noise(mechanism="gaussian", multiplier=child.number("multiplier", above=0.0) or 1.0)


def _metrics(tables: Sequence[_CharterTable]) -> tuple[Metric, ...]:
    found: dict[str, Metric] = {}
    for index, table in enumerate(tables):
        name, low, high = table.name("name"), table.number("low"), table.number("high")
        if low is not None and high is not None and low >= high:
            table.fault("high", "must be above low")
        if name in found:
            table.fault("name", "another metric has this name")
        if index == METRICS:
            table.fault("name", f"one metric too many: there may be {METRICS}")
        found[name] = Metric(name=name, low=low or 0.0, high=high or 0.0)
    return tuple(found[name] for name in sorted(found))
