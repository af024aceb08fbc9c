"""The vectors of docs/attestation.md, derived from the page's own words, and what cloister makes of them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from cloister.attest.transcript import Transcript
from cloister.attest.verdict import Outcome
from tests.attest.test_verdict import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "attestation.md").read_text(encoding="utf-8")
VECTOR = re.compile(
    r"\*\*(?P<name>[^*]+)\*\*\n\n```text\n(?P<t>[0-9a-f\n]+)```\n\n`report_data`:\n\n```text\n(?P<data>[0-9a-f\n]+)```"
)


def run(start: int, size: int) -> bytes:
    """Bytes that count up from ``start``, modulo 256."""
    return bytes((start + index) % 256 for index in range(size))


COMMON = [run(0x40, 32), run(0x60, 32), run(0x80, 16)]
ITEMS: dict[str, list[Any]] = {
    "An aggregator, asked by somebody without a certificate, before the first record": [
        *("cloister/1", "aggregator", "simulated", run(0, 32), None, *COMMON),
        *("agg.example:7443", run(0xA0, 32), None, b"", 0, None),
    ],
    "A node, asked by a member, after 300 records": [
        *("cloister/1", "node", "sgx", run(0, 32), run(0x20, 1216), *COMMON),
        *("[2001:db8::7]:7443", run(0xA0, 32), run(0xC0, 32), run(0xE0, 32), 300, run(0xF0, 32)),
    ],
}


def cbor(item: Any) -> bytes:
    """The deterministic CBOR of RFC 8949, section 4.2.1, for what a transcript holds; no library has a part in it."""
    match item:
        case None:
            return b"\xf6"
        case int():
            return _head(0, item)
        case bytes():
            return _head(2, len(item)) + item
        case str():
            return _head(3, len(item.encode())) + item.encode()
        case list():
            return _head(4, len(item)) + b"".join(map(cbor, item))
    raise AssertionError(item)


def _head(major: int, number: int) -> bytes:
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 24:
            return bytes([major << 5 | number])
        if number < 1 << 8 * size:
            return bytes([major << 5 | extra]) + number.to_bytes(size, "big")
    raise AssertionError(number)


def vectors() -> dict[str, tuple[bytes, bytes]]:
    return {match["name"]: (bytes.fromhex(match["t"]), bytes.fromhex(match["data"])) for match in VECTOR.finditer(PAGE)}


def test_the_page_has_these_vectors():
    assert set(vectors()) == set(ITEMS)


@pytest.mark.parametrize("name", ITEMS)
def test_the_words_of_the_page_give_its_vectors(name):
    encoded = cbor(ITEMS[name])
    assert (encoded, hashlib.sha512(encoded).digest()) == vectors()[name]


@pytest.mark.parametrize("name", ITEMS)
def test_cloister_writes_and_reads_them(name):
    encoded, report_data = vectors()[name]
    transcript = Transcript.decode(encoded)
    assert [getattr(transcript, field) for field in Transcript.__slots__] == ITEMS[name][1:]
    assert transcript.encode() == encoded
    assert transcript.report_data() == report_data


def test_every_item_key_and_outcome_has_a_row():
    items = [f"| {number} | `{field}` |" for number, field in enumerate(Transcript.__slots__, start=1)]
    rows = [*items, *(f"| `{word}` |" for word in (*KEYS, *Outcome))]
    assert [row for row in rows if row not in PAGE] == []
