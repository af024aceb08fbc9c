"""Evidence that travelled, at the end that verifies. Whoever proves only sends it (``cloister.attest.evidence``)."""

from __future__ import annotations

from typing import Final

import msgspec

from cloister.attest.evidence import Evidence
from cloister.errors import EvidenceError
from cloister.wire.limits import EVIDENCE_BYTES

_DECODER: Final = msgspec.msgpack.Decoder(Evidence)


def decode(data: bytes) -> Evidence:
    """Evidence that travelled.

    Raises:
        EvidenceError: it is none.
    """
    if len(data) > EVIDENCE_BYTES:
        raise EvidenceError(f"evidence of {len(data)} bytes is over the limit of {EVIDENCE_BYTES}")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        raise EvidenceError("what came is no evidence: it does not decode") from None
