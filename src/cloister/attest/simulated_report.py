"""The simulated TEE's reports, as they are made: the whole road of evidence, with nothing at the end of it.

A report has what a real one has, a measurement, the machine, the 64 bytes that were asked for, and a signature, so that
everything which handles evidence runs and can be tested without the hardware. It proves nothing: the key that signs is
*public*, derived from the sentence below, so anyone can make any report.

Layout, little-endian, 240 bytes:

    0    magic          16   b"cloister sim TEE"
    16   version         4   1
    20   svn             4   security version of the software
    24   flags           8   bit 0: debug; all others are zero
    32   measurement    48   SHA-384 of what runs
    80   platform       32   names the machine
    112  report_data    64   what was asked for
    176  signature      64   Ed25519 (RFC 8032) over bytes 0 to 175
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.attest.evidence import REPORT_DATA_BYTES
from cloister.errors import EvidenceError

PUBLIC_ROOT: Final = b"cloister: this simulated TEE's private key is public, so its reports prove nothing"
"""The sentence whose SHA-256 is the seed of the simulated root's Ed25519 key (RFC 8032, section 5.1.5)."""

MEASUREMENT_BYTES: Final = 48
PLATFORM_BYTES: Final = 32
REPORT_BYTES: Final = 240

MAGIC: Final = b"cloister sim TEE"
VERSION: Final = 1
DEBUG: Final = 1
BODY: Final = struct.Struct("<16sIIQ48s32s64s")


def make(report_data: bytes, *, measurement: bytes, platform: bytes, svn: int = 0, debug: bool = False) -> bytes:
    """A report of 240 bytes for 64 bytes of ``report_data``, a SHA-384 (48 bytes) and a platform (32 bytes).

    Raises:
        EvidenceError: a part has another size, or ``svn`` does not fit in 32 bits.
    """
    sizes = (len(report_data), len(measurement), len(platform))
    if sizes != (REPORT_DATA_BYTES, MEASUREMENT_BYTES, PLATFORM_BYTES):
        raise EvidenceError(f"a simulated report takes parts of 64, 48 and 32 bytes, not of {sizes}")
    if not 0 <= svn < 1 << 32:
        raise EvidenceError("a security version is a number of 32 bits")
    body = BODY.pack(MAGIC, VERSION, svn, DEBUG if debug else 0, measurement, platform, report_data)
    return body + root().sign(body)


@cache
def root() -> Ed25519PrivateKey:
    """The simulated root's private key, which everyone has."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(PUBLIC_ROOT).digest())
