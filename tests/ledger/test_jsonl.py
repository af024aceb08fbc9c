"""A chain as a file: the bytes decide, and what stands beside them for people is what they say."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.charter.toml import parse_charter
from cloister.errors import LedgerError
from cloister.ledger import records
from cloister.ledger.jsonl import LINE_BYTES, describe, moment, read_lines, write_line, written
from tests.charter.test_noise import noisy
from tests.support import chains
from tests.support.charters import fingerprint_of

LEDGER = chains.chain(2)
LINES = [write_line(record) for record in LEDGER.records]


def read(*lines: str | bytes) -> list[bytes]:
    return list(read_lines(line if isinstance(line, bytes) else line.encode() for line in lines))


def test_a_chain_is_read_back():
    assert read(*LINES) == list(LEDGER.records)
    assert read(*(line.rstrip() for line in LINES)) == list(LEDGER.records)
    assert read() == []


def test_a_line_is_for_people_too():
    for line in LINES:
        assert line.isascii()
        assert line.endswith("}\n")
        assert "\n" not in line[:-1]
    said = json.loads(LINES[1])
    assert base64.b64decode(said["record"]) == LEDGER.records[1]
    assert (said["kind"], said["round"], said["sequence"], said["job_name"]) == ("round", 1, 2, "train")
    assert said["shares"] == dict.fromkeys(map(fingerprint_of, ("bob", "alice")), 0.5)
    assert said["metrics"] == {"loss": 0.5}
    assert said["time"] == "2026-06-01T12:00:00.000+00:00"
    assert json.loads(LINES[0])["tee"] == "simulated"


def test_a_line_says_what_noise_there_was():
    limits = f'first_model = "{chains.START.hex()}"\n'
    line = write_line(chains.chain(1, agreed=parse_charter(noisy(limits=limits))).records[1])
    assert json.loads(line)["noise"] == {"unit": "record", "multiplier": 2.0, "rate": 0.25, "clip": 1.0}
    assert json.loads(LINES[1])["noise"] is None
    with pytest.raises(LedgerError, match="its 'noise' is not what its record says"):
        read(line.replace('"multiplier": 2.0', '"multiplier": 3.0'))


def test_the_record_alone_is_enough():
    lines = [json.dumps({"record": json.loads(line)["record"]}) for line in LINES]
    assert read(*lines) == list(LEDGER.records)


@pytest.mark.parametrize("index", range(3))
def test_every_change_of_what_it_says_is_found(index):
    said = json.loads(LINES[index])
    others: list[Any] = [None, "x", 3.5, 77, [], {}, True]
    for name, value in said.items():
        for other in [*others, *([value[:-1], value + "0"] if isinstance(value, str) else [])]:
            if other == value:
                continue
            with pytest.raises(LedgerError, match="line 1"):
                read(json.dumps(said | {name: other}))
    with pytest.raises(LedgerError, match="'signed'"):
        read(json.dumps(said | {"signed": "by all"}))


def test_lines_of_two_records_do_not_mix():
    one, other = (json.loads(line) for line in LINES[1:])
    for name in one:
        if one[name] != other[name]:
            with pytest.raises(LedgerError):
                read(json.dumps(one | {name: other[name]}))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "no JSON"),
        (b"\n", "no JSON"),
        (b"\xff", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"1" * 5000, "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"record": 1}', "no JSON object"),
        (b'{"record": "=!"}', "not base64"),
        (b'{"record": "\\ud800"}', "not base64"),
        (b'{"record": "AB=="}', "one spelling of base64"),
        (b'{"record": "AA=="}', "no record"),
        (b'{"record": "AA==", "record": "AA=="}', "twice"),
        (b'{"record": "AA==", "x": NaN}', "no number of JSON's"),
        (b" " * (LINE_BYTES + 1), "longer than"),
    ],
)
def test_what_is_no_line(line, why):
    with pytest.raises(LedgerError, match=why):
        read(line)


def test_the_line_is_named():
    with pytest.raises(LedgerError, match="line 3: "):
        read(LINES[0], LINES[1], "{}")


def test_a_cut_line_is_found():
    for cut in (10, 500, len(LINES[1]) - 2):
        with pytest.raises(LedgerError):
            read(LINES[0], LINES[1][:cut])


@given(st.binary(max_size=100))
def test_any_line_is_refused(line):
    with pytest.raises(LedgerError):
        read(line)


def test_numbers_that_json_lacks_are_texts():
    instance = chains.Instance()
    ledger = chains.chain(0)
    record = chains.round_record(ledger, instance=instance, metrics={"loss": float("nan"), "more": float("-inf")})
    assert describe(record)["metrics"] == {"loss": "nan", "more": "-inf"}
    assert read(write_line(record)) == [record]


def test_records_that_hold_no_cohort_or_transcript():
    for record, changed in ((LEDGER.records[1], {"cohort": b"x"}), (LEDGER.records[0], {"transcript": b"x"})):
        hollow = chains.Instance().sign(chains.msgspec.structs.replace(records.decode(record), **changed))
        with pytest.raises(LedgerError):
            describe(hollow)


def test_times():
    assert written(0) == "1970-01-01T00:00:00.000+00:00"
    assert moment((1 << 53) - 1) is None
    assert written((1 << 53) - 1) == "never"
