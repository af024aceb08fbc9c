"""Whether what a TEE handed out is whole and for the 64 bytes that were asked: another's answer must not leave here.

This authenticates nothing, which is for whoever receives it. It finds mistakes and races at the place where they
happen, where a person can do something about them.
"""

from __future__ import annotations

import struct
from typing import Final

from cloister.attest.evidence import QUOTE_BYTES, REPORT_DATA_BYTES, Tee
from cloister.errors import EvidenceError, NoTeeError

SNP_REPORT_BYTES: Final = 0x4A0  # AMD 56860, table "ATTESTATION_REPORT"
_SNP_REPORT_DATA: Final = 0x50
_QUOTE_HEADER: Final = 48  # Intel DCAP Quote Library API, appendix A.3 and A.4: quotes of versions 3, 4 and 5
_SGX_TEE_TYPE: Final = 0
_TDX_TEE_TYPE: Final = 0x81
_SGX_BODY: Final = 384
_SGX_REPORT_DATA: Final = 320
_TD_BODY: Final = 584  # TD report 1.0; the later ones are longer and begin alike
_TD_REPORT_DATA: Final = 520


def check_asked(report_data: bytes) -> None:
    """Raises ``EvidenceError`` unless ``report_data`` has the 64 bytes which every TEE signs."""
    if len(report_data) != REPORT_DATA_BYTES:
        raise EvidenceError(f"evidence is made for {REPORT_DATA_BYTES} bytes, not for {len(report_data)}")


def check_answer(quote: bytes, *, tee: Tee, report_data: bytes) -> None:
    """Raises ``NoTeeError`` unless ``quote`` is a whole quote or report of a ``tee``, for ``report_data``."""
    try:
        found = _snp(quote) if tee == "snp" else _dcap(quote, tee)
    except struct.error:
        raise NoTeeError(f"the TEE's answer of {len(quote)} bytes is cut off: it is no {tee} evidence") from None
    if found != report_data:
        raise NoTeeError(
            f"the TEE's {tee} evidence is for other report data than was asked for: does something else write to its"
            " interface?"
        )


def _snp(report: bytes) -> bytes:
    if len(report) != SNP_REPORT_BYTES:
        raise NoTeeError(f"an SEV-SNP report has {SNP_REPORT_BYTES} bytes, the TEE's answer {len(report)}")
    return _slice(report, _SNP_REPORT_DATA)


def _dcap(quote: bytes, tee: Tee) -> bytes:
    version, _, tee_type = struct.unpack_from("<HHI", quote)
    at, size, offset = _QUOTE_HEADER, _TD_BODY, _TD_REPORT_DATA
    if tee == "sgx":
        expected, size, offset = _SGX_TEE_TYPE, _SGX_BODY, _SGX_REPORT_DATA
        known = version == 3
    else:
        expected = _TDX_TEE_TYPE
        known = version in (4, 5)
        if version == 5:  # two bytes of type and four of size come before the body
            (size,) = struct.unpack_from("<I", quote, at + 2)
            at += 6
    if not known or tee_type != expected or size < offset + REPORT_DATA_BYTES:
        raise NoTeeError(f"the TEE's answer is no {tee} quote that is known: version {version}, type {tee_type:#x}")
    (signature,) = struct.unpack_from("<I", quote, at + size)
    whole = at + size + 4 + signature
    if len(quote) != whole or whole > QUOTE_BYTES:
        raise NoTeeError(f"the TEE's {tee} quote should have {whole} bytes by its own count, and has {len(quote)}")
    return _slice(quote, at + offset)


def _slice(quote: bytes, offset: int) -> bytes:
    return quote[offset : offset + REPORT_DATA_BYTES]
