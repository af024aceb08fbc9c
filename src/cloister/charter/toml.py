"""Reading charter.toml: every fault of the file is told, each with its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, cast

from cloister.attest import reference_toml
from cloister.charter import jobs_toml, rules
from cloister.charter.charter import (
    BASE_FILES,
    BASES,
    COUNT,
    DELTA,
    DIGEST_BYTES,
    FORMAT,
    LEAST_MULTIPLIER,
    MEMBERS,
    MIN_BATCH,
    MIN_ROWS,
    MULTIPLIER,
    ROLES,
    UNITS,
    Base,
    Batch,
    Charter,
    Count,
    Days,
    Floor,
    Limits,
    Member,
    Metric,
    Noise,
    Role,
    Rows,
    Unit,
)
from cloister.charter.jobs import JOBS
from cloister.charter.names import MARKS, NAME_CHARS, is_name
from cloister.errors import CharterError, ConfigurationError
from cloister.models import recipe_toml
from cloister.tables import Table, bounds, faulty, is_digest, load
from cloister.wire.limits import LIST_ITEMS
from cloister.wire.peers import check_fingerprint

_NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)


def parse_charter(text: str, *, source: str = "charter.toml", to_draw: bool = False) -> Charter:
    """The charter in a TOML text of at most 256 KiB; ``source`` is its name for messages.

    ``to_draw``: it may lack the digest of its first model, which is to be drawn with it. A stand-in takes its place.

    Raises:
        CharterError: the text has faults; the message lists all of them, each with its place.
    """
    try:
        data = load(text, source=source)
    except ConfigurationError as fault:
        raise CharterError(str(fault)) from None
    if to_draw and isinstance(data.get("limits"), dict):
        data["limits"].setdefault("first_model", bytes(DIGEST_BYTES).hex())
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

    def broken(self, faults: rules.Faults) -> None:
        """Notes what rules were broken; not where a value is faulty itself, and only a stand-in broke the rule."""
        noted = {fault.partition(":")[0] for fault in self._faults}
        for place, text in faults:
            if place not in noted:
                self.fault(place, text)


def _charter(table: _CharterTable) -> Charter:
    if table.text("format") not in ("", FORMAT):
        table.fault("format", f'must be "{FORMAT}": this version reads no other')
    serial, supersedes = _line(table)
    not_before, not_after = _validity(table)
    members = _members(table)
    addresses = table.table("aggregator").texts(
        "addresses", what='a host and a port, such as "agg.example:7443"', accepts=rules.is_address, least=1
    )
    table.broken(rules.addresses(addresses))
    entries = list[Table](table.tables("software"))
    reference = reference_toml.parse(entries)
    if reference or not entries:  # otherwise it is told why each of them is none
        table.broken(rules.software(reference))
    limits = _limits(table.table("limits"))
    table.broken(rules.limits(limits, owners=sum(member.role == "owner" for member in members)))
    jobs = [jobs_toml.read(child, name=child.name("name")) for child in table.tables("jobs")[: JOBS + 1]]
    bases = [_base(child) for child in table.tables("bases")[: BASES + 1]]
    table.broken(rules.bases(bases))
    charter = Charter(
        name=table.name("name"),
        serial=serial,
        supersedes=supersedes,
        not_before=not_before,
        not_after=not_after,
        members=tuple(sorted(members, key=lambda member: member.name)),
        addresses=tuple(sorted(set(addresses))),
        reference=reference,
        limits=limits,
        jobs=tuple(sorted(jobs, key=lambda each: each.name)),
        bases=tuple(sorted(bases, key=lambda each: each.name)),
        recipe=recipe_toml.parse(table.tables("first_model")),
    )
    table.broken(rules.metrics(limits.metrics))
    table.broken(rules.jobs(jobs, limits=limits))
    table.broken(rules.first_model(charter.recipe, limits=limits))
    table.finish()
    return replace(charter, limits=replace(limits, metrics=tuple(sorted(limits.metrics, key=lambda each: each.name))))


def _line(table: _CharterTable) -> tuple[int, bytes | None]:
    """The place in the line of charters of one name."""
    serial = table.whole("serial", **bounds(Count))
    supersedes = table.hexadecimal("supersedes", size=DIGEST_BYTES) if table.holds("supersedes") else None
    table.broken(rules.line(serial, supersedes))
    return serial, supersedes


def _validity(table: _CharterTable) -> tuple[datetime, datetime]:
    not_before, not_after = table.moment("not_before"), table.moment("not_after")
    if not_before is not None and not_after is not None:
        table.broken(rules.validity(not_before, not_after))
    return not_before or _NEVER, not_after or _NEVER


def _members(table: _CharterTable) -> list[Member]:
    # A faulty role counts as an owner's, so that one mistake is told once.
    found = [_member(child) for child in table.tables("members")[: MEMBERS + 1]]
    table.broken(rules.members(found))
    return found


def _member(table: _CharterTable) -> Member:
    name, role = table.name("name"), cast(Role, table.choice("role", among=ROLES) or "owner")
    key = table.fingerprint("key")
    return Member(name=name, role=role, key=key, id=table.fingerprint("id") if table.holds("id") else key)


def _limits(table: _CharterTable) -> Limits:
    return Limits(
        floor=table.whole("floor", **bounds(Floor)),
        largest_share=table.number("largest_share", above=0.0, most=1.0) or 1.0,
        clip=table.number("clip", above=0.0) or 1.0,
        clip_buffers=table.number("clip_buffers", above=0.0) if table.holds("clip_buffers") else None,
        home_buffers=table.flag("home_buffers", default=False),
        noise=_noise(table),
        rounds=table.whole("rounds", **bounds(Count)),
        min_examples=table.whole("min_examples", **bounds(Count)),
        min_batch=table.whole("min_batch", **bounds(Batch), default=MIN_BATCH),
        min_rows=table.whole("min_rows", **bounds(Rows), default=MIN_ROWS),
        row_buckets=_buckets(table),
        proven_plans=table.flag("proven_plans", default=False),
        first_model=table.hexadecimal("first_model", size=DIGEST_BYTES) if table.holds("first_model") else None,
        first_model_file=table.hexadecimal("first_model_file", size=DIGEST_BYTES)
        if table.holds("first_model_file")
        else None,
        metrics=_metrics(table.tables("metrics")),
        interactive=table.flag("interactive"),
        lost_key_days=table.whole("lost_key_days", **bounds(Days), default=0),
    )


def _buckets(table: _CharterTable) -> tuple[int, ...]:
    found = table.take("row_buckets", list, "a list of whole numbers", [])
    if not found:
        return ()
    if len(found) > LIST_ITEMS or not all(type(each) is int and 0 < each <= COUNT for each in found):
        table.fault("row_buckets", "must be a list of whole numbers")
        return ()
    return tuple(found)


def _base(table: _CharterTable) -> Base:
    texts = table.texts("files", what="the SHA-256 of a file, 64 hexadecimal digits", accepts=is_digest, least=1)
    if len(texts) > BASE_FILES:
        table.fault("files", f"are more than {BASE_FILES}")
    return Base(name=table.name("name"), files=tuple(map(bytes.fromhex, texts)))


def _noise(table: _CharterTable) -> Noise | None:
    what = 'a table such as { unit = "record", multiplier = 2.0, delta = 1e-5 }, or the word "none"'
    child = table.table_or_word("noise", what=what, word="none")
    if child is None:
        return None
    unit = cast(Unit, child.choice("unit", among=UNITS) or "record")
    multiplier = child.number("multiplier", above=LEAST_MULTIPLIER, most=MULTIPLIER) or 1.0
    return Noise(unit=unit, multiplier=multiplier, delta=child.number("delta", above=0.0, most=DELTA) or DELTA)


def _metrics(tables: Sequence[_CharterTable]) -> tuple[Metric, ...]:
    found = []
    for table in tables[: rules.METRICS + 1]:
        name, low, high = table.name("name"), table.number("low"), table.number("high")
        found.append(Metric(name=name, low=-math.inf if low is None else low, high=math.inf if high is None else high))
    return tuple(found)
