"""A successor that an owner's key did not sign waits at each node, so that an owner whose key is not lost can object.

The time is measured by this node's clock and kept in this node's memory: from when it first saw the successor, complete
but for that key, or from the last round in which it knows that key to have signed since. A key that signs is not lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cloister.charter.charter import Charter, Member
from cloister.charter.names import shown
from cloister.errors import CharterError
from cloister.files import read
from cloister.ledger.chain import Ledger
from cloister.node import lasting
from cloister.node.study.journal import FILE, Records

_BYTES: Final = 256


class _Seen(NamedTuple):
    charter: str
    """The successor's digest, in hexadecimal digits."""
    since: datetime
    records: int
    """So many records of the old charter's ledger were known then."""


def check_waited(
    state: Path, *, old: Charter, new: Charter, silent: Sequence[Member], now: datetime, note: bool
) -> None:
    """Checks that the time which ``old`` names has passed since this node saw ``new`` without a sign of the keys of
    ``silent``, owners of ``old``. Otherwise, with ``note``, it is written down that the node has seen it.

    Raises:
        CharterError: it has not; the message says until when the node waits. The node's memory cannot be used.
    """
    file, days = state / f"{new.name}.seen", old.limits.lost_key_days
    keys = {owner.key: shown(owner.name) for owner in silent}
    signed = dict(_signed(old, state, keys))
    known = max(signed, default=0)
    seen = _read(file)
    told = f"it was first seen here on {{:%Y-%m-%d %H:%M}} UTC, and waits {days} days"
    if seen is None or seen.charter != new.digest.hex():
        seen = _Seen(new.digest.hex(), now, known)
        told = f"it waits {days} days from now on"
        _keep(file, seen, note=note)
    elif known > seen.records:
        told = f"the key of {signed[known]}, which is said to be lost, has signed since: it waits {days} days anew"
        seen = _Seen(seen.charter, now, known)
        _keep(file, seen, note=note)
    until = seen.since + timedelta(days=days)
    if now < until:
        raise CharterError(
            f"serial {new.serial} of the charter {new.name!r} is not signed by the key of"
            f" {', '.join(sorted(keys.values()))}, which is said to be lost: {told.format(seen.since)}, until"
            f" {until:%Y-%m-%d %H:%M} UTC. Let this node work under serial {old.serial} meanwhile. Ask"
            f" {', '.join(sorted(keys.values()))}, by a way that you know"
            + ("" if note else ". Nothing was written down: `cloister node note` does that")
        )


def _signed(old: Charter, state: Path, keys: dict[str, str]) -> Iterator[tuple[int, str]]:
    """The records of the old charter's ledger, as far as it is known here, that one of these keys has signed."""
    if not (state / FILE).exists():
        return
    with closing(Records(state, read_only=True)) as records:
        ledger = Ledger.from_records(old, records.chain(old.digest))
    for receipt in ledger.receipts:
        for each in (*receipt.record.consents, *receipt.record.commits):
            if each.member in keys:
                yield receipt.cohort.sequence, keys[each.member]


def _read(file: Path) -> _Seen | None:
    """What was written down; None where nothing was, or it is damaged: then the time begins anew."""
    try:
        charter, since, count = read(file, limit=_BYTES).decode().split()
        moment = datetime.fromisoformat(since)
        return _Seen(charter, moment, int(count)) if moment.tzinfo is not None else None
    except (OSError, ValueError):
        return None


def _keep(file: Path, seen: _Seen, *, note: bool) -> None:
    if not note:
        return
    try:
        lasting.write(file, f"{seen.charter} {seen.since.isoformat()} {seen.records}\n")
    except OSError as fault:
        raise CharterError(f"{file} cannot be written, so that the time would not begin: {fault.strerror}") from None
