"""A chain as a text file, ``chain.jsonl``: one record a line, in JSON (RFC 8259), with its content for people.

    {"record": "<the record's bytes, base64>", "kind": "round", "sequence": 2, ...}

The bytes decide. The other fields are for people and their tools, and have to agree with the bytes: a line in which
somebody changed one is refused. A field may be missing, so that older and newer programs read each other's files.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloister.attest.transcript import Transcript
from cloister.errors import EvidenceError, LedgerError
from cloister.ledger.records import InstanceRecord, Noised, decode, decode_cohort, head_of
from cloister.wire.limits import RECORD_BYTES

LINE_BYTES: Final = 2 * RECORD_BYTES
"""The longest line that is read, its end included."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def write_line(record: bytes) -> str:
    """The line of an encoded record, its end included, in ASCII.

    Raises:
        LedgerError: the bytes are no record.
    """
    encoded = base64.b64encode(record).decode()
    return json.dumps({"record": encoded, **describe(record)}, separators=(", ", ": ")) + "\n"


def read_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The encoded records in the lines of a file. Nothing else is checked of them.

    Raises:
        LedgerError: a line that is too long or no record's, or that says something else than its record.
    """
    for number, line in enumerate(lines, 1):
        try:
            yield _read_line(line)
        except LedgerError as fault:
            raise LedgerError(f"line {number}: {fault}") from None


def describe(record: bytes) -> dict[str, Any]:
    """An encoded record's content as JSON holds it: digests in hexadecimal, times as ISO 8601. Nothing is verified.

    Raises:
        LedgerError: the bytes are no record.
    """
    decoded = decode(record)
    common = {"head": head_of(record).hex(), "time": written(decoded.time)}
    if isinstance(decoded, InstanceRecord):
        try:
            transcript = Transcript.decode(decoded.transcript)
        except EvidenceError as fault:
            raise LedgerError(str(fault)) from None
        return {
            "kind": "instance",
            "sequence": decoded.sequence,
            "previous": decoded.previous.hex(),
            **common,
            "tee": transcript.tee,
            "instance": transcript.instance.hex(),
            "signing_key": transcript.signing_key.hex(),
        }
    cohort = decode_cohort(decoded.cohort)
    return {
        "kind": "round",
        "sequence": cohort.sequence,
        "previous": cohort.previous.hex(),
        **common,
        "round": cohort.round,
        "job": cohort.job.hex(),
        "job_name": cohort.name,
        "started_from": cohort.model.hex(),
        "released": decoded.model.hex(),
        "metrics": {name: _finite(value) for name, value in decoded.metrics.items()},
        "shares": {share.member: _finite(share.weight) for share in cohort.shares},
        "noise": None if cohort.noise is None else _noise(cohort.noise),
        "consented": [signature.member for signature in decoded.consents],
        "committed": [signature.member for signature in decoded.commits],
    }


def _noise(noise: Noised) -> dict[str, float | str]:
    numbers = {"multiplier": noise.multiplier, "rate": noise.rate, "clip": noise.clip}
    return {"unit": noise.unit, **{name: _finite(number) for name, number in numbers.items()}}


def moment(milliseconds: int) -> datetime | None:
    """A record's time; None where no calendar goes that far."""
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def written(milliseconds: int) -> str:
    """A record's time for people."""
    time = moment(milliseconds)
    return "never" if time is None else time.isoformat(timespec="milliseconds")


def _read_line(line: bytes) -> bytes:
    if len(line) > LINE_BYTES:
        raise LedgerError(f"it is longer than {LINE_BYTES} bytes, so it is no record's")
    try:
        said = json.loads(line.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):  # ValueError: not UTF-8, not JSON, absurd numbers
        raise LedgerError("it is no JSON that can be read") from None
    if type(said) is not dict or type(said.get("record")) is not str:
        raise LedgerError('it is no JSON object with a "record"')
    text = said.pop("record")
    try:
        record = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise LedgerError("its record is not base64") from None
    if base64.b64encode(record).decode() != text:
        raise LedgerError("its record is not in the one spelling of base64")
    meant = describe(record)
    wrong = [name for name, value in said.items() if name not in meant or _spell(value) != _spell(meant[name])]
    if wrong:
        raise LedgerError(f"its {wrong[0][:64]!r} is not what its record says")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a name that comes twice: RFC 8259, section 4, leaves its meaning open."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise LedgerError("a field stands in it twice")
    return members


def _refuse(constant: str) -> None:
    raise LedgerError(f"{constant} is no number of JSON's")


def _spell(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _finite(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if abs(value) < float("inf") else str(value)
