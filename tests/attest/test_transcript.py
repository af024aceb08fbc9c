"""The transcript T: one form, every field bounded, and another T for every change."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, fields, replace
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.evidence import TEES
from cloister.attest.transcript import PROTOCOL, TRANSCRIPT_BYTES, Transcript
from cloister.errors import EvidenceError

T = Transcript(
    role="aggregator",
    tee="simulated",
    nonce=bytes(range(32)),
    hpke_key=bytes(1216),
    signing_key=b"\x01" * 32,
    charter=b"\x02" * 32,
    instance=b"\x03" * 16,
    name="aggregator.example:7443",
    server=b"\x04" * 32,
    client=b"\x05" * 32,
    ledger_head=b"",
    ledger_sequence=0,
    configuration=None,
)
FIELDS = [field.name for field in fields(Transcript)]


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=256)
LEDGERS = st.just((b"", 0)) | st.tuples(octets(32), st.integers(1, (1 << 63) - 1))
TRANSCRIPTS = st.builds(
    lambda ledger, **rest: Transcript(ledger_head=ledger[0], ledger_sequence=ledger[1], **rest),
    ledger=LEDGERS,
    role=st.sampled_from(["aggregator", "node"]),
    tee=st.sampled_from(TEES),
    nonce=octets(32),
    hpke_key=st.none() | octets(1216),
    signing_key=octets(32),
    charter=octets(32),
    instance=octets(16),
    name=NAMES,
    server=octets(32),
    client=st.none() | octets(32),
    configuration=st.none() | octets(32),
)


def form(*, head: Any = PROTOCOL, **changed: Any) -> bytes:
    """T with values that ``Transcript`` itself would not take."""
    values = dict(zip(FIELDS, astuple(T), strict=True)) | changed
    return cbor2.dumps([head, *values.values()], canonical=True)


@pytest.mark.slow
@given(TRANSCRIPTS)
def test_a_transcript_travels_and_is_the_same(transcript: Transcript) -> None:
    data = transcript.encode()
    assert len(data) <= TRANSCRIPT_BYTES
    assert Transcript.decode(data) == transcript
    assert transcript.report_data() == hashlib.sha512(data).digest()


@given(TRANSCRIPTS, TRANSCRIPTS)
def test_two_transcripts_share_no_report_data(one: Transcript, other: Transcript) -> None:
    assert (one.report_data() == other.report_data()) == (one == other)


def decoded(data: bytes) -> Transcript | None:
    """What ``data`` is read as, if it is; its own form again, always."""
    try:
        transcript = Transcript.decode(data)
    except EvidenceError:
        return None
    assert transcript.encode() == data
    return transcript


@pytest.mark.slow
def test_every_flipped_bit_is_refused_or_another_transcript() -> None:
    data = T.encode()
    read = 0
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        other = decoded(bytes(flipped))
        if other is not None:
            read += 1
            assert other.report_data() != T.report_data()
    assert read > 8 * 1216  # those in a key's bytes, for instance: it is the evidence that tells them


def test_every_cut_and_every_tail_is_refused() -> None:
    data = T.encode()
    for size in range(len(data)):
        with pytest.raises(EvidenceError):
            Transcript.decode(data[:size])
    for tail in (b"\0", b"\xff", data):
        with pytest.raises(EvidenceError):
            Transcript.decode(data + tail)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    assert decoded(data) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.sampled_from(FIELDS), VALUES)
def test_any_value_in_any_field_is_refused_or_travels(field: str, value: Any) -> None:
    decoded(form(**{field: value}))


HOSTILE = {
    "deep arrays": b"\x81" * 4000,
    "deep indefinite arrays": b"\x9f" * 4000,
    "shared references": b"\xd8\x1c" * 2000,
    "a reference to itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a huge array": b"\x9b" + b"\xff" * 8,
    "a huge string": b"\x5b\x7f" + b"\xff" * 7,
    "a bad pattern": b"\xd8\x23\x61(",
    "a fraction over nothing": b"\xd8\x1e\x82\x01\x00",
    "a number of billions of digits": b"\xc4\x82\x1a\x7f\xff\xff\xff\x01",
    "the year ten to the nineteen": b"\xc1\x1b" + b"\xff" * 8,
    "a map in a map's key": b"\xa1\xa1\x01\x02\x03",
    "a break": b"\xff",
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_cbor_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        Transcript.decode(data)


def head(major: int, size: int) -> bytes:
    """A CBOR head that says ``size`` in eight bytes, where fewer would do (RFC 8949, section 4.2.1)."""
    return bytes([major << 5 | 27]) + size.to_bytes(8)


def item(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def respelled(**spelled: bytes) -> bytes:
    items = {"protocol": item(PROTOCOL)} | {name: item(getattr(T, name)) for name in FIELDS} | spelled
    return b"\x8e" + b"".join(items.values())


NOT_CANONICAL = {
    "a long head": respelled(nonce=head(2, 32) + T.nonce),
    "a long zero": respelled(ledger_sequence=head(0, 0)),
    "a long array": head(4, 14) + respelled()[1:],
    "an array without a length": b"\x9f" + respelled()[1:] + b"\xff",
    "bytes in pieces": respelled(nonce=b"\x5f\x58\x10" + T.nonce[:16] + b"\x50" + T.nonce[16:] + b"\xff"),
    "a text in pieces": respelled(role=b"\x7f\x6aaggregator\xff"),
    "a zero as a float": respelled(ledger_sequence=b"\xf9\x00\x00"),
    "a zero as a big number": respelled(ledger_sequence=b"\xc2\x40"),
    "a tag that means nothing": b"\xd9\xd9\xf7" + respelled(),
    "undefined for null": respelled(configuration=b"\xf7"),
}


def test_the_form_that_the_cases_below_respell() -> None:
    assert respelled() == T.encode()


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_the_same_in_another_spelling_is_refused(data: bytes) -> None:
    """Two spellings of one T would be two hashes: what one end signs, the other would not find."""
    with pytest.raises(EvidenceError):
        Transcript.decode(data)


WRONG: dict[str, list[Any]] = {
    "role": ["auditor", "", "Aggregator", None, 1, ["aggregator"]],
    "tee": ["sev", "", "SGX", None, {"tee": "sgx"}],
    "nonce": [b"", bytes(31), bytes(33), None, "0" * 32, list(bytes(32))],
    "hpke_key": [b"", bytes(1215), bytes(1217), "none"],
    "signing_key": [bytes(31), bytes(33), None],
    "charter": [b"", bytes(31), bytes(64), "0" * 32],
    "instance": [b"", bytes(15), bytes(32)],
    "name": ["", "a" * 257, "a\nb", "a\x1b[2J", "\u202ea", b"agg:1", None, 7],
    "server": [b"", bytes(20), None],
    "client": [b"", bytes(31), "no one", False],
    "ledger_head": [bytes(32), bytes(31), None, ""],
    "ledger_sequence": [1, -1, 1 << 63, 0.0, False, None],
    "configuration": [b"", bytes(31), bytes(33), "none", 0],
}


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value"), [(field, value) for field in WRONG for value in WRONG[field]])
def test_a_field_beyond_its_limits_is_refused(field: str, value: Any) -> None:
    with pytest.raises(EvidenceError):
        replace(T, **{field: value})
    with pytest.raises(EvidenceError):
        Transcript.decode(form(**{field: value}))


def test_a_ledger_has_both_a_head_and_records() -> None:
    assert replace(T, ledger_head=bytes(32), ledger_sequence=1).ledger_sequence == 1
    for head_, sequence in ((bytes(32), 0), (b"", 1)):
        with pytest.raises(EvidenceError, match="head without records"):
            replace(T, ledger_head=head_, ledger_sequence=sequence)


@pytest.mark.parametrize(
    "data",
    [
        form(head="cloister/2"),
        form(head=PROTOCOL.encode()),
        cbor2.dumps(astuple(T), canonical=True),
        cbor2.dumps([PROTOCOL, *astuple(T), None], canonical=True),
        cbor2.dumps([PROTOCOL, *astuple(T)][:-1], canonical=True),
        cbor2.dumps({"role": "aggregator"}, canonical=True),
        bytes(TRANSCRIPT_BYTES + 1),
    ],
    ids=["another version", "bytes for text", "no version", "one too many", "one too few", "a map", "too long"],
)
def test_what_is_no_transcript_of_this_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        Transcript.decode(data)
