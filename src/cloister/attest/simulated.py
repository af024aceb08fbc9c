"""Simulated evidence: whether a report of the simulated TEE is well made, and what it says."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature

from cloister.attest.claims import SimulatedClaims
from cloister.attest.simulated_report import BODY, DEBUG, MAGIC, REPORT_BYTES, VERSION, root
from cloister.errors import EvidenceError, NotGenuineError


def authenticate(report: bytes) -> SimulatedClaims:
    """What a simulated report says. That it verifies means that it is well made, and no more.

    Raises:
        EvidenceError: not a simulated report of this version.
        NotGenuineError: one whose signature does not fit, so not even the public key made it as it is.
    """
    if len(report) != REPORT_BYTES:
        raise EvidenceError(f"a simulated report has {REPORT_BYTES} bytes, this has {len(report)}")
    body, signature = report[: BODY.size], report[BODY.size :]
    magic, version, svn, flags, measurement, platform, report_data = BODY.unpack(body)
    if magic != MAGIC or version != VERSION:
        raise EvidenceError(f"not a simulated report of version {VERSION}")
    if flags & ~DEBUG:
        raise EvidenceError("a simulated report with flags that have no meaning")
    try:
        root().public_key().verify(signature, body)
    except InvalidSignature:
        raise NotGenuineError("the signature does not fit the simulated report: it was changed on its way") from None
    return SimulatedClaims(
        report_data=report_data,
        measurement=measurement,
        svn=svn,
        debug=bool(flags & DEBUG),
        platform=platform,
    )
