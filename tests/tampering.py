"""Every plausible change of one field: of a struct, of what stands in it, and of what is encoded in it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from cloister.attest import evidence, received
from cloister.attest.transcript import Transcript
from cloister.errors import CloisterError
from cloister.ledger.records import decode_cohort, encode

Changed = tuple[str, Any]
"""Where, and the whole with that change in it."""


def changes(value: Any, where: str = "") -> Iterator[Changed]:
    """All single changes of a value."""
    match value:
        case msgspec.Struct():
            for name in value.__struct_fields__:
                for place, other in _field(name, getattr(value, name), f"{where}.{name}"):
                    yield place, msgspec.structs.replace(value, **{name: other})
        case bool():
            yield where, not value
        case bytes():
            yield from _bytes(value, where)
        case int():
            yield from ((where, other) for other in (value + 1, max(value - 1, 0), value + 1000) if other != value)
        case float():
            others = (math.nextafter(value, math.inf), value / 2, -value, math.nan, math.inf, 0.0)
            yield from ((where, other) for other in others if other != value)
        case str():
            yield from ((where, other) for other in (value[:-1] + chr(ord(value[-1]) ^ 1), value.upper(), value + " "))
        case None:
            yield where, bytes(32)
        case tuple():
            yield from _tuple(value, where)
        case dict():
            yield from _dict(value, where)
        case _:
            raise AssertionError(f"no changes for {value!r}")


def _field(name: str, value: Any, where: str) -> Iterator[Changed]:
    yield from changes(value, where)
    # What is encoded in a field is changed field by field too.
    if name == "cohort":
        yield from ((place, encode(other)) for place, other in changes(decode_cohort(value), where))
    if name == "transcript":
        yield from ((place, other.encode()) for place, other in transcripts(Transcript.decode(value), where))
    if name == "evidence":
        yield from ((place, evidence.encode(other)) for place, other in changes(received.decode(value), where))


def transcripts(value: Transcript, where: str) -> Iterator[Changed]:
    """All single changes that leave it a transcript."""
    for field in dataclasses.fields(value):
        for place, other in changes(getattr(value, field.name), f"{where}.{field.name}"):
            try:
                changed = dataclasses.replace(value, **{field.name: other})
            except CloisterError:
                continue
            yield place, changed


def _bytes(value: bytes, where: str) -> Iterator[Changed]:
    if value:
        yield where, bytes([value[0] ^ 1]) + value[1:]
        yield where, value[:-1] + bytes([value[-1] ^ 0x80])
        yield where, value[:-1]
        yield where, b""
    yield where, value + b"\0"


def _tuple(value: tuple[Any, ...], where: str) -> Iterator[Changed]:
    for index, item in enumerate(value):
        before, after = value[:index], value[index + 1 :]
        yield f"{where}[{index}] dropped", before + after
        yield f"{where}[{index}] twice", (*before, item, item, *after)
        for place, other in changes(item, f"{where}[{index}]"):
            yield place, (*before, other, *after)
    for index in range(len(value) - 1):
        yield f"{where}[{index}] swapped", (*value[:index], value[index + 1], value[index], *value[index + 2 :])


def _dict(value: dict[str, Any], where: str) -> Iterator[Changed]:
    yield f"{where} with one more", value | {"more": 1.0}
    for key, item in value.items():
        rest = {name: other for name, other in value.items() if name != key}
        yield f"{where}[{key}] dropped", rest
        yield f"{where}[{key}] renamed", rest | {key + "s": item}
        for place, other in changes(item, f"{where}[{key}]"):
            yield place, rest | {key: other}
