"""The simulated TEE's reports: the whole road of evidence, with nothing at the end of it.

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

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.attest.claims import SimulatedClaims
from cloister.attest.evidence import REPORT_DATA_BYTES
from cloister.errors import EvidenceError, NotGenuineError

PUBLIC_ROOT: Final = b"cloister: this simulated TEE's private key is public, so its reports prove nothing"
"""The sentence whose SHA-256 is the seed of the simulated root's Ed25519 key (RFC 8032, section 5.1.5)."""

MEASUREMENT_BYTES: Final = 48
PLATFORM_BYTES: Final = 32
REPORT_BYTES: Final = 240

_MAGIC: Final = b"cloister sim TEE"
_VERSION: Final = 1
_DEBUG: Final = 1
_BODY: Final = struct.Struct("<16sIIQ48s32s64s")


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
    body = _BODY.pack(_MAGIC, _VERSION, svn, _DEBUG if debug else 0, measurement, platform, report_data)
    return body + _root().sign(body)


def authenticate(report: bytes) -> SimulatedClaims:
    """What a simulated report says. That it verifies means that it is well made, and no more.

    Raises:
        EvidenceError: not a simulated report of this version.
        NotGenuineError: one whose signature does not fit, so not even the public key made it as it is.
    """
    if len(report) != REPORT_BYTES:
        raise EvidenceError(f"a simulated report has {REPORT_BYTES} bytes, this has {len(report)}")
    body, signature = report[: _BODY.size], report[_BODY.size :]
    magic, version, svn, flags, measurement, platform, report_data = _BODY.unpack(body)
    if magic != _MAGIC or version != _VERSION:
        raise EvidenceError(f"not a simulated report of version {_VERSION}")
    if flags & ~_DEBUG:
        raise EvidenceError("a simulated report with flags that have no meaning")
    try:
        _root().public_key().verify(signature, body)
    except InvalidSignature:
        raise NotGenuineError("the signature does not fit the simulated report: it was changed on its way") from None
    return SimulatedClaims(
        report_data=report_data,
        measurement=measurement,
        svn=svn,
        debug=bool(flags & _DEBUG),
        platform=platform,
    )


@cache
def _root() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(PUBLIC_ROOT).digest())
