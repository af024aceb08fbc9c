"""The certificate table that a host hands out with an SEV-SNP report (AMD 56421, "GHCB
Standardization", SNP Extended Guest Request).

Entries of a GUID (16 bytes, in the order of RFC 9562, as it is printed), an offset and a length (4 bytes each, little-
endian), up to an entry of zeros; the certificates follow. The host is untrusted: so are they, until they are verified.
"""

from __future__ import annotations

import struct
from typing import Final
from uuid import UUID

from cloister.errors import NoTeeError

CERTIFICATE_BYTES: Final = 1 << 13
"""The longest certificate that is handed on, in bytes. Genuine ones have about 1.3 to 1.7 KB."""

_VEK: Final = {
    0: UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes,  # VCEK
    1: UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes,  # VLEK
}
_ASK: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes
_ARK: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes
_WANTED: Final = (*_VEK.values(), _ASK, _ARK)
_ENTRY: Final = struct.Struct("<16sII")
_END: Final = bytes(16)
_KEY_INFO: Final = 0x48  # AMD 56860, table "ATTESTATION_REPORT": bits 4:2 say which key signed


def endorsements(table: bytes, *, report: bytes) -> tuple[bytes, ...]:
    """From ``table`` the certificate of the key that signed ``report``, then ASK and ARK: those that are there.

    An empty table is none: then whoever verifies brings the certificates.

    Raises:
        NoTeeError: not such a table.
    """
    (key_info,) = struct.unpack_from("<I", report, _KEY_INFO)
    found = _entries(table)
    wanted = (_VEK.get(key_info >> 2 & 7, _END), _ASK, _ARK)
    return tuple(found[guid] for guid in wanted if guid in found)


def _entries(table: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    if not any(table):
        return found
    for at in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        guid, offset, length = _ENTRY.unpack_from(table, at)
        if guid == _END:
            return found
        if guid in found or offset + length > len(table):
            raise NoTeeError("the host's certificate table names one twice, or one beyond its end")
        if guid in _WANTED and not 0 < length <= CERTIFICATE_BYTES:
            raise NoTeeError(f"the host's certificate table holds a certificate of {length} bytes")
        found[guid] = table[offset : offset + length]
    raise NoTeeError("the host's certificate table has no end")
