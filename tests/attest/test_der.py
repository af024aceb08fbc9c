"""The strict DER reader: what is written one way is read, everything else is refused with its own error."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.attest import der
from cloister.errors import EvidenceError

sizes = st.one_of(st.sampled_from((0, 1, 127, 128, 255, 256, 65_535, 65_536)), st.integers(0, 300))
tags = st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F)


def encode(tag: int, content: bytes) -> bytes:
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8) if size >= 0x80 else b""
    return bytes([tag, 0x80 | len(octets) if octets else size]) + octets + content


@given(st.lists(st.tuples(tags, sizes), max_size=1), st.lists(st.tuples(tags, st.integers(0, 300)), max_size=3))
def test_elements_are_read_as_they_were_written(first, rest):
    values = [(tag, b"\x5a" * size) for tag, size in first + rest]
    found = der.elements(b"".join(encode(tag, content) for tag, content in values))
    assert [(one.tag, one.content) for one in found] == values
    assert [one.encoded for one in found] == [encode(tag, content) for tag, content in values]


@given(st.binary(max_size=64))
@example(b"\x30\x80\x00\x00")
def test_whatever_is_read_has_one_form_only(data):
    try:
        found = der.elements(data)
    except EvidenceError:
        return
    assert b"".join(encode(one.tag, one.content) for one in found) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("30", "in the middle"),
        ("3001", "in the middle"),
        ("308100", "shortest form"),
        ("30817f" + "00" * 127, "shortest form"),
        ("30820080" + "00" * 128, "shortest form"),
        ("3080" + "0000", "indefinite"),
        ("3082ff", "cut off"),
        ("30850000000001" + "00", "too long"),
        ("30ff", "too long"),
        ("1f0100", "more than one byte"),
        ("bf0100", "more than one byte"),
    ],
)
def test_what_is_not_der(data, why):
    with pytest.raises(EvidenceError, match=why):
        der.elements(bytes.fromhex(data))


def test_what_is_too_long_is_not_looked_at():
    with pytest.raises(EvidenceError, match="over the limit"):
        der.elements(bytes(der.DER_BYTES + 1))


def test_one_element_of_one_tag_and_nothing_after():
    assert der.read(b"\x02\x01\x05", der.INTEGER) == der.Element(der.INTEGER, b"\x05", b"\x02\x01\x05")
    for wrong in (b"", b"\x02\x01\x05\x02\x01\x05", b"\x04\x01\x05"):
        with pytest.raises(EvidenceError):
            der.read(wrong, der.INTEGER)
    with pytest.raises(EvidenceError, match="nothing inside"):
        der.read(b"\x04\x00", der.OCTET_STRING).children()
    assert der.context(3) == 0xA3


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 1 << 32), max_size=5))
def test_object_identifiers_are_read_as_cryptography_reads_them(first, second, rest):
    dotted = ".".join(map(str, (first, second, *rest)))
    arcs = b"".join(_arc(arc) for arc in (40 * first + second, *rest))
    assert der.oid(arcs) == dotted == x509.ObjectIdentifier(dotted).dotted_string


def _arc(arc: int) -> bytes:
    septets = [arc & 0x7F]
    while arc := arc >> 7:
        septets.append(arc & 0x7F | 0x80)
    return bytes(reversed(septets))


@pytest.mark.parametrize("content", ["", "80", "2a80", "2a8001", "8001", "2a81", "2a" * 33])
def test_what_is_no_object_identifier(content):
    with pytest.raises(EvidenceError):
        der.oid(bytes.fromhex(content))


@given(st.integers(0, (1 << 160) - 1))
def test_integers_have_one_form_and_a_bound(number):
    content = number.to_bytes(number.bit_length() // 8 + 1)
    assert der.integer(content) == number
    for wrong in (b"\0" + content, content + bytes(22), b"\xff" + content, b""):
        with pytest.raises(EvidenceError):
            der.integer(wrong)


def test_bit_strings_are_whole_octets():
    assert der.bits(b"\0ab") == b"ab"
    for wrong in (b"", b"\1ab"):
        with pytest.raises(EvidenceError):
            der.bits(wrong)


def test_texts_print():
    assert der.text(der.Element(der.UTF8_STRING, "Zürich".encode(), b"")) == "Zürich"
    assert der.text(der.Element(der.IA5_STRING, b"Milan-B0", b"")) == "Milan-B0"
    for tag, content in [
        (der.IA5_STRING, "Zürich".encode()),
        (der.UTF8_STRING, b"\xff"),
        (der.UTF8_STRING, b"a\x1b[2J"),
        (der.PRINTABLE_STRING, b"a" * 257),
        (der.OCTET_STRING, b"a"),
    ]:
        with pytest.raises(EvidenceError):
            der.text(der.Element(tag, content, b""))


def test_times_are_in_utc_and_exist():
    assert der.time(der.Element(der.UTC_TIME, b"260705010433Z", b"")) == datetime(2026, 7, 5, 1, 4, 33, tzinfo=UTC)
    assert der.time(der.Element(der.UTC_TIME, b"500101000000Z", b"")).year == 1950
    assert der.time(der.Element(der.GENERALIZED_TIME, b"20500101000000Z", b"")).year == 2050
    for tag, content in [
        (der.UTC_TIME, b"260705010433"),
        (der.UTC_TIME, b"260705010433+"),
        (der.UTC_TIME, b"261305010433Z"),
        (der.UTC_TIME, b"2607050104Z"),
        (der.UTC_TIME, b"20500101000000Z"),
        (der.UTC_TIME, b"26070501043\xb2Z"),
        (der.GENERALIZED_TIME, b"260705010433Z"),
        (der.GENERALIZED_TIME, b"00000101000000Z"),
        (der.GENERALIZED_TIME, b"20500101000000.5Z"),
        (der.OCTET_STRING, b"260705010433Z"),
        (der.UTC_TIME, b""),
    ]:
        with pytest.raises(EvidenceError):
            der.time(der.Element(tag, content, b""))
