"""A small strict reader of DER (ITU-T X.690), for the few certificates that ``cryptography`` does not read.

AMD's VCEK and VLEK have serial number 0, and Gramine's older RA-TLS certificates give an ECDSA algorithm parameters:
both break RFC 5280, so libraries warn or refuse, and both are genuine. Only what those need is here: tags of one byte,
definite lengths in their shortest form, and no recursion, so that hostile bytes cost no more than their length.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from cloister.errors import EvidenceError

DER_BYTES: Final = 1 << 17
"""The longest that is looked at: as long as evidence may be."""

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31


def context(number: int) -> int:
    """The tag of a constructed, context-specific ``[number]``, 0 to 30."""
    return 0xA0 | number


class Element(NamedTuple):
    """One value: its tag, its contents, and all its bytes (tag and length included)."""

    tag: int
    content: bytes
    encoded: bytes

    def expect(self, tag: int) -> Element:
        """This element, if it has that tag. Raises ``EvidenceError`` if not."""
        if self.tag != tag:
            raise EvidenceError(f"DER with tag {self.tag:#04x} where {tag:#04x} belongs")
        return self

    def children(self) -> list[Element]:
        """The elements inside. Raises ``EvidenceError`` if it is not constructed, or not made of whole elements."""
        if not self.tag & 0x20:
            raise EvidenceError(f"DER with tag {self.tag:#04x} has nothing inside it")
        return elements(self.content)


def elements(data: bytes) -> list[Element]:
    """The elements that ``data``, at most 128 KiB, is made of, one after another.

    Raises:
        EvidenceError: it is not whole elements in DER.
    """
    if len(data) > DER_BYTES:
        raise EvidenceError(f"{len(data)} bytes of DER are over the limit of {DER_BYTES}")
    found, at = [], 0
    while at < len(data):
        start, end = _extent(data, at)
        found.append(Element(data[at], data[start:end], data[at:end]))
        at = end
    return found


def read(data: bytes, tag: int) -> Element:
    """The one element of that tag which ``data``, at most 128 KiB, is, with nothing after it.

    Raises:
        EvidenceError: it is something else.
    """
    found = elements(data)
    if len(found) != 1:
        raise EvidenceError(f"{len(found)} DER elements where one belongs")
    return found[0].expect(tag)


def oid(content: bytes) -> str:
    """The object identifier in these contents, dotted (X.690, 8.19). Raises ``EvidenceError``."""
    if not 1 <= len(content) <= 32 or content[-1] & 0x80:
        raise EvidenceError("a DER object identifier that does not end, or is too long")
    arcs, arc, fresh = [], 0, True
    for octet in content:
        if fresh and octet == 0x80:
            raise EvidenceError("a DER object identifier that is not in its shortest form")
        arc, fresh = arc << 7 | octet & 0x7F, not octet & 0x80
        if fresh:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def integer(content: bytes) -> int:
    """The non-negative integer of at most 20 octets in these contents (X.690, 8.3). Raises ``EvidenceError``."""
    if not 1 <= len(content) <= 21 or content[0] & 0x80:
        raise EvidenceError("a DER integer that is empty, negative or too long")
    if len(content) > 1 and not content[0] and not content[1] & 0x80:
        raise EvidenceError("a DER integer that is not in its shortest form")
    return int.from_bytes(content)


def bits(content: bytes) -> bytes:
    """The whole octets in a BIT STRING's contents (X.690, 8.6). Raises ``EvidenceError`` if a bit is unused."""
    if not content or content[0]:
        raise EvidenceError("a DER bit string that is not whole octets")
    return content[1:]


def text(element: Element) -> str:
    """A printable UTF8String, PrintableString or IA5String of at most 256 octets. Raises ``EvidenceError``."""
    if element.tag not in (UTF8_STRING, PRINTABLE_STRING, IA5_STRING) or len(element.content) > 256:
        raise EvidenceError("a DER text of another kind, or too long")
    try:
        value = element.content.decode("utf-8" if element.tag == UTF8_STRING else "ascii")
    except UnicodeDecodeError:
        raise EvidenceError("a DER text that does not decode") from None
    if not value.isprintable():
        raise EvidenceError("a DER text with characters that do not print")
    return value


def time(element: Element) -> datetime:
    """A point in time as RFC 5280 writes it (4.1.2.5): to the second, in UTC. Raises ``EvidenceError``."""
    digits = element.content[:-1]
    if element.tag == UTC_TIME and len(digits) == 12 and digits.isdigit():
        digits = (b"19" if digits >= b"50" else b"20") + digits
    elif element.tag != GENERALIZED_TIME or len(digits) != 14 or not digits.isdigit():
        raise EvidenceError("a DER time in a form that certificates do not have")
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(4, 14, 2))
    try:
        if element.content[-1:] != b"Z":
            raise ValueError
        return datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise EvidenceError("a DER time that does not exist, or is not in UTC") from None


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where the contents of the element at ``at`` begin and end."""
    if data[at] & 0x1F == 0x1F:
        raise EvidenceError("a DER tag of more than one byte")
    if at + 2 > len(data):
        raise EvidenceError("DER that ends in the middle")
    length, start = data[at + 1], at + 2
    if length >= 0x80:
        octets = data[start : start + (length & 0x7F)]
        if not 1 <= length & 0x7F <= 4 or len(octets) != length & 0x7F:
            raise EvidenceError("a DER length that is indefinite, too long or cut off")
        start, length = start + len(octets), int.from_bytes(octets)
        if length < 0x80 or not octets[0]:
            raise EvidenceError("a DER length that is not in its shortest form")
    if length > len(data) - start:
        raise EvidenceError("DER that ends in the middle")
    return start, start + length
